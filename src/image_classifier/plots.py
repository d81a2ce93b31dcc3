"""Every figure, as a PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

from image_classifier.data.images import Pixels

matplotlib.use("Agg")  # draws without a screen
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.rcParams["text.parse_math"] = False  # names of files and classes may have a $

Numbers = npt.NDArray[np.float64]


def picture_grid(images: Pixels, titles: Sequence[str], path: Path) -> None:
    """Draw images in a grid of four columns.

    Args:
        images: uint8 array of shape (pictures, height, width, 1 or 3).
        titles: One for each image, e.g. its class and file name.
        path: The PNG file to write.
    """
    rows = -(-len(images) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(12, 3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8, wrap=True)
    _save(figure, path)


def learning_curves(history: Mapping[str, Sequence[float]], best_epoch: int, path: Path) -> None:
    """Draw loss and accuracy over the epochs, training beside validation.

    Args:
        history: Keras's: `loss`, `accuracy`, `val_loss`, `val_accuracy`, one value an epoch.
        best_epoch: Epoch of the checkpoint, counted from 1.
        path: The PNG file to write.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
        epochs = range(1, len(history[metric]) + 1)
        axis.plot(epochs, history[metric], label="training")
        axis.plot(epochs, history[f"val_{metric}"], label="validation")
        axis.axvline(best_epoch, color="grey", linestyle=":", label=f"best epoch: {best_epoch}")
        axis.set_title(metric.capitalize())
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def confusion_matrix(counts: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix.

    Args:
        counts: int array of shape (classes, classes): row true, column predicted.
        classes: Names, in the order of rows and columns.
        path: The PNG file to write.
    """
    size = max(4.0, 1.2 * len(classes))
    figure, axis = plt.subplots(figsize=(size + 1, size))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{number}\n{shares[row, column]:.0%}"
        axis.text(column, row, text, ha="center", va="center", color=colour)
    axis.set_xticks(range(len(classes)), classes, rotation=45 if len(classes) > 3 else 0)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title("Test images: number, and\nshare of the true class", fontsize=11)
    _save(figure, path)


def roc_curves(curves: Sequence[tuple[str, Numbers, Numbers]], path: Path) -> None:
    """Draw ROC curves.

    Args:
        curves: For each its name, its false positive rates, and its true positive rates: float
            arrays of shape (points,), 0 to 1, ascending.
        path: The PNG file to write.
    """
    figure, axis = plt.subplots(figsize=(5, 5))
    for name, false_positive_rate, true_positive_rate in curves:
        axis.plot(false_positive_rate, true_positive_rate, label=name)
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axis.set_xlabel("false positive rate (1 - specificity)")
    axis.set_ylabel("true positive rate (sensitivity)")
    axis.set_title("ROC curve, test images")
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    _save(figure, path)


def precision_recall_curves(curves: Sequence[tuple[str, Numbers, Numbers]], path: Path) -> None:
    """Draw precision-recall curves.

    Args:
        curves: For each its name, its recalls, and its precisions: float arrays of shape
            (points,), 0 to 1.
        path: The PNG file to write.
    """
    figure, axis = plt.subplots(figsize=(5, 5))
    for name, recall, precision in curves:
        axis.plot(recall, precision, label=name, drawstyle="steps-post")
    axis.set_xlabel("recall (sensitivity)")
    axis.set_ylabel("precision")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_title("Precision and recall, test images")
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")
    _save(figure, path)


def calibration(
    curves: Sequence[tuple[str, Numbers, Numbers, npt.NDArray[np.int64]]], path: Path
) -> None:
    """Draw how often a class is right at each predicted probability.

    Args:
        curves: For each class its name, and for each bin the mean probability, the share of
            images that are of the class (float arrays, 0 to 1), and the number of images (int
            array), all of shape (bins,).
        path: The PNG file to write.
    """
    figure, axis = plt.subplots(figsize=(5, 5))
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfectly calibrated")
    for name, predicted, observed, images in curves:
        # as large as they have images: a bin of one image is always at 0 or 1
        axis.scatter(predicted, observed, 15 + 400 * images / images.sum(), alpha=0.6, label=name)
        if len(curves) == 1:
            for x, y, number in zip(predicted, observed, images, strict=True):
                axis.annotate(str(number), (x, y), (6, 6), textcoords="offset points", fontsize=8)
    axis.set_xlabel("predicted probability")
    axis.set_ylabel("share of images of the class")
    axis.set_title("Calibration, test images (area: number of images)")
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.set_xlim(-0.05, 1.12)  # room for the numbers beside the points
    # points may be anywhere: below them
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, markerscale=0.4)
    _save(figure, path)


def explanations(
    images: Pixels, overlays: Pixels, titles: Sequence[str], caption: str, path: Path
) -> None:
    """Draw images in pairs, each beside itself with its heat map.

    Args:
        images: uint8 array of shape (pictures, height, width, 1 or 3).
        overlays: uint8 array of shape (pictures, height, width, 3).
        titles: One for each image.
        caption: Stands above them all.
        path: The PNG file to write.
    """
    rows = -(-len(images) // 2)
    figure, axes = plt.subplots(rows, 4, figsize=(12, 3.2 * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, (image, heated, title) in enumerate(zip(images, overlays, titles, strict=True)):
        left, right = axes.flat[2 * place], axes.flat[2 * place + 1]
        left.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        right.imshow(heated)
        left.set_title(title, fontsize=8, loc="left")
    figure.suptitle(caption + "\n", fontsize=10)
    _save(figure, path)


def sweep_slices(
    columns: Mapping[str, Sequence[str]], values: Sequence[float], metric: str, path: Path
) -> None:
    """Draw a sweep's results over each hyperparameter that it varied, the best job marked.

    Args:
        columns: For each hyperparameter its value in every job; numbers are drawn as numbers, on a
            logarithmic axis where they span a factor of ten.
        values: Each job's result.
        metric: Its name; of a loss the lowest is best.
        path: The PNG file to write.
    """
    best = int(np.argmin(values) if "loss" in metric else np.argmax(values))
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
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
