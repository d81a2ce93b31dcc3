"""How every plot is drawn and written: without a screen, as a PNG file."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from image_classifier.project.files import new_file

matplotlib.use("Agg")  # needs no screen
matplotlib.rcParams["text.parse_math"] = False  # names of files and classes may contain a $


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, and close it."""
    figure.tight_layout()
    figure.savefig(new_file(path), dpi=100)
    plt.close(figure)
