"""The plots of a model's test images."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    roc_curve,
)

from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Pixels
from image_classifier.evaluation.predictions import Floats, Predictions
from image_classifier.project import paths
from image_classifier.project.files import new_file
from image_classifier.project.plotting import save

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

CONFUSION = paths.EVALUATE / "confusion_matrix.png"
ROC = paths.EVALUATE / "roc.png"
PRECISION_RECALL = paths.EVALUATE / "precision_recall.png"
CALIBRATION = paths.EVALUATE / "calibration.png"
HEAT_MAPS = paths.EVALUATE / "heat_maps.png"
FILES = [CONFUSION, ROC, PRECISION_RECALL, CALIBRATION, HEAT_MAPS]

BINS = 10  # of the calibration plot
EXAMPLES = 4  # most certain hits on the page of heat maps, and worst errors


def plot_all(dataset: PreparedDataset, classifier: "Classifier", test: Predictions) -> None:
    """Write every plot, and the points of the ROC curve as CSV."""
    plot_confusion_matrix(test, dataset.classes)
    plot_curves(test, dataset.classes)
    write_roc_points(test, dataset.classes)
    plot_heat_maps(dataset, classifier, test)


def plot_confusion_matrix(test: Predictions, classes: list[str]) -> None:
    """Plot how many images of each class are predicted as each class."""
    size = max(4.5, 1.2 * len(classes))
    figure, axis = plt.subplots(figsize=(size + 1, size))
    ConfusionMatrixDisplay.from_predictions(
        test.labels,
        test.predicted,
        labels=range(len(classes)),
        display_labels=classes,
        cmap="Blues",
        xticks_rotation=45 if len(classes) > 3 else 0,
        ax=axis,
    )
    axis.set_title("Confusion matrix, test images")
    save(figure, CONFUSION)


def plot_curves(test: Predictions, classes: list[str]) -> None:
    """Plot ROC curve, precision-recall curve and calibration.

    For two classes there is one curve, of the positive class; for more, one for each class against
    the rest.
    """
    (roc, roc_axis), (recall, recall_axis), (calibration, calibration_axis) = (
        plt.subplots(figsize=(5.5, 5.5)) for _ in range(3)
    )
    for name, actual, score in _one_against_the_rest(test, classes):
        RocCurveDisplay.from_predictions(actual, score, name=name, ax=roc_axis)
        PrecisionRecallDisplay.from_predictions(actual, score, name=name, ax=recall_axis)
        drawn = CalibrationDisplay.from_predictions(
            actual, score, n_bins=BINS, name=name, ax=calibration_axis, linestyle=""
        )
        if len(classes) == 2:
            write_bin_sizes(drawn, score)
    roc_axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    for axis, title, x, y in (
        (roc_axis, "ROC curve", "false positive rate", "true positive rate"),
        (recall_axis, "Precision and recall", "recall", "precision"),
        (calibration_axis, "Calibration", "mean predicted probability", "fraction of the class"),
    ):
        axis.set(title=f"{title}, test images", xlabel=x, ylabel=y)
        axis.grid(alpha=0.3)
        axis.legend()
    save(roc, ROC)
    save(recall, PRECISION_RECALL)
    save(calibration, CALIBRATION)


def write_bin_sizes(drawn: CalibrationDisplay, score: Floats) -> None:
    """Write the number of images beside each point: a bin of one image is always at 0 or 1."""
    sizes, _ = np.histogram(score, BINS, (0, 1))
    for x, y, size in zip(drawn.prob_pred, drawn.prob_true, sizes[sizes > 0], strict=True):
        drawn.ax_.annotate(str(size), (x, y), (6, 6), textcoords="offset points", fontsize=8)


def write_roc_points(test: Predictions, classes: list[str]) -> None:
    """Write the points of the ROC curves as CSV, for `dvc plots`."""
    with new_file(paths.ROC_POINTS).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["curve", "false_positive_rate", "true_positive_rate"])
        for name, actual, score in _one_against_the_rest(test, classes):
            false_positive_rate, true_positive_rate, _ = roc_curve(actual, score)
            for point in zip(false_positive_rate, true_positive_rate, strict=True):
                writer.writerow([name, *map(float, point)])


def plot_heat_maps(dataset: PreparedDataset, classifier: "Classifier", test: Predictions) -> None:
    """Plot the most certain hits and the worst errors, each beside its heat map."""
    from image_classifier.evaluation.heat_maps import heat_maps, overlay  # imports TensorFlow

    hits, errors = examples(test, len(dataset.classes))
    chosen = np.concatenate([hits[:EXAMPLES], errors[:EXAMPLES]])
    rows = test.rows[chosen]
    images = dataset.images[rows]
    maps = heat_maps(classifier, images, test.predicted[chosen])
    lines = -(-len(chosen) // 2)
    figure, axes = plt.subplots(lines, 4, figsize=(12, 3.5 * lines + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, index in enumerate(chosen):
        left, right = axes.flat[2 * place], axes.flat[2 * place + 1]
        image: Pixels = images[place]
        left.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        right.imshow(overlay(image, maps[place]))
        label, predicted = test.labels[index], test.predicted[index]
        left.set_title(
            f"{'hit' if predicted == label else 'ERROR'}: {dataset.classes[label]}, predicted "
            f"{dataset.classes[predicted]} with {test.probabilities[index, predicted]:.3f}\n"
            f"{Path(dataset.rows[rows[place]].path).name}",
            fontsize=8,
            loc="left",
        )
    figure.suptitle(
        f"The most certain hits, and the worst of {len(errors)} errors. Red: evidence for the "
        f"predicted class.\n",
        fontsize=10,
    )
    save(figure, HEAT_MAPS)


def examples(
    test: Predictions, classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the most certain hits, equally many of each class, and the errors, the worst first.

    Returns:
        Two int64 arrays of positions in `test`; the hits of the last class come first.
    """
    of_truth = test.probabilities[np.arange(len(test.labels)), test.labels]
    order = np.argsort(-of_truth, kind="stable")
    right = (test.predicted == test.labels)[order]
    hits, errors = order[right], order[~right][::-1]
    each = -(-EXAMPLES // classes)
    hits = np.concatenate(
        [hits[test.labels[hits] == index][:each] for index in reversed(range(classes))]
    )
    return hits, errors


def _one_against_the_rest(
    test: Predictions, classes: list[str]
) -> Iterator[tuple[str, npt.NDArray[np.bool_], Floats]]:
    """Yield name, truth and probability of the positive class, or of each of several classes."""
    for index in [1] if len(classes) == 2 else range(len(classes)):
        yield classes[index], test.labels == index, test.probabilities[:, index]
