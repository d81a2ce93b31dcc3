"""The plot of a sweep: its results over each setting that it varied."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from image_classifier.config.schema import sign_of
from image_classifier.project.plotting import save


def plot_sweep(
    columns: Mapping[str, Sequence[str]], values: Sequence[float], metric: str, path: Path
) -> None:
    """Plot the results of a sweep over each setting that it varied; the best job has a star.

    Args:
        columns: For each setting, its value in every job. Numbers have a numeric axis, a
            logarithmic one when they span a factor of ten.
        values: The result of each job.
        metric: The name of the result.
        path: The PNG file to write.
    """
    best = int(np.argmin(sign_of(metric) * np.asarray(values)))
    wide = len(columns)
    figure, axes = plt.subplots(1, wide, figsize=(3.6 * wide, 3.4), squeeze=False, sharey=True)
    for axis, (name, texts) in zip(axes[0], columns.items(), strict=True):
        try:
            points: list[float] | list[str] = [float(text) for text in texts]
            numbers = np.abs(np.array(points, float))
            if numbers.min() > 0 and numbers.max() >= 10 * numbers.min():
                axis.set_xscale("log")
        except ValueError:
            points = list(texts)
        axis.scatter(points, values, alpha=0.6)
        axis.scatter([points[best]], [values[best]], marker="*", s=160, label="best")
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(metric)
    axes[0, 0].legend()
    save(figure, path)
