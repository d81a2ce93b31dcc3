"""The grid of training images, to see what the model sees."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from image_classifier.data.images import Pixels
from image_classifier.data.manifest import ImageRow
from image_classifier.project.plotting import save

IMAGES = 16
COLUMNS = 4


def grid_rows(rows: list[ImageRow]) -> list[int]:
    """Return the row numbers of the first training images, equally many of each class."""
    labels = sorted({row.label for row in rows})
    each = max(1, IMAGES // len(labels))
    return [
        index
        for label in labels
        for index in [
            i for i, row in enumerate(rows) if row.label == label and row.split == "train"
        ][:each]
    ][:IMAGES]


def plot_image_grid(images: Pixels, rows: Sequence[ImageRow], path: Path) -> None:
    """Plot images in a grid, with class and file name.

    Args:
        images: uint8 array of shape (images, height, width, 1 or 3).
        rows: The manifest's row of each image.
        path: The PNG file to write.
    """
    lines = -(-len(images) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(12, 3 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, row in zip(axes.flat, images, rows, strict=False):
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{row.label}\n{Path(row.path).name}", fontsize=8, wrap=True)
    save(figure, path)
