"""What a training leaves to look at: the history as a table, its curves, and the layers."""

import csv
from pathlib import Path

import keras
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from image_classifier.project.files import new_file
from image_classifier.project.plotting import save
from image_classifier.training.progress import Progress


def write_history(progress: Progress, path: Path) -> None:
    """Write a CSV file with one row for each epoch, counted from 1."""
    with new_file(path).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *progress.history])
        for epoch, values in enumerate(zip(*progress.history.values(), strict=True), start=1):
            writer.writerow([epoch, *values])


def plot_learning_curves(progress: Progress, best_epoch: int, path: Path) -> None:
    """Plot loss and accuracy over the epochs, for training and validation.

    Args:
        progress: With one epoch or more.
        best_epoch: Epoch of the checkpoint, counted from 1.
        path: The PNG file to write.
    """
    history = progress.history
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
    save(figure, path)


def write_layers(model: keras.Model, path: Path) -> None:
    """Write Keras's table of the layers."""
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    new_file(path).write_text("\n".join(lines) + "\n")
