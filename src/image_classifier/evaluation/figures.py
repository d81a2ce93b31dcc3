"""The figures of a model's test images."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from image_classifier import paths, plots
from image_classifier.data.dataset import PreparedDataset
from image_classifier.evaluation.metrics import Floats, Measured
from image_classifier.evaluation.report import confusion_counts

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

ROC = paths.EVALUATE / "roc.png"
CONFUSION = paths.EVALUATE / "confusion_matrix.png"
PRECISION_RECALL = paths.EVALUATE / "precision_recall.png"
CALIBRATION = paths.EVALUATE / "calibration.png"
EXPLANATIONS = paths.EVALUATE / "explanations.png"
FILES = [ROC, CONFUSION, PRECISION_RECALL, CALIBRATION, EXPLANATIONS]
BINS = 10  # of the calibration curve
EXPLAINED = 4  # surest hits, and as many of the worst errors


def draw(dataset: PreparedDataset, classifier: "Classifier", test: Measured) -> None:
    """Draw all figures; write the points of the ROC curve."""
    classes = dataset.classes
    plots.confusion_matrix(confusion_counts(test, classes), classes, CONFUSION)
    roc, precision_recall, calibration = [], [], []
    for name, actual, score in one_against_the_rest(test, classes):
        false_positive, true_positive, _ = roc_curve(actual, score)
        area = roc_auc_score(actual, score)
        roc.append((f"{name}: area {area:.3f}", false_positive, true_positive))
        precision, recall, _ = precision_recall_curve(actual, score)
        area = average_precision_score(actual, score)
        precision_recall.append((f"{name}: area {area:.3f}", recall, precision))
        observed, predicted = calibration_curve(actual, score, n_bins=BINS)
        in_bin = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], score))
        calibration.append((name, predicted, observed, in_bin[in_bin > 0]))
    plots.roc_curves(roc, ROC)
    plots.precision_recall_curves(precision_recall, PRECISION_RECALL)
    plots.calibration(calibration, CALIBRATION)
    with paths.ROC_POINTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["curve", "false_positive_rate", "true_positive_rate"])
        for name, *points in roc:
            writer.writerows((name, *map(float, point)) for point in zip(*points, strict=True))
    draw_explanations(dataset, classifier, test)


def one_against_the_rest(
    test: Measured, classes: list[str]
) -> Iterator[tuple[str, npt.NDArray[np.bool_], Floats]]:
    """Yield name, truth and probability of the positive class, or of each of more than two."""
    for index in [1] if len(classes) == 2 else range(len(classes)):
        yield classes[index], test.labels == index, test.probabilities[:, index]


def draw_explanations(dataset: PreparedDataset, classifier: "Classifier", test: Measured) -> None:
    """Draw where the model saw its evidence, for the surest hits and the worst errors."""
    from image_classifier.evaluation import heat_maps  # imports TensorFlow

    of_truth = test.probabilities[np.arange(len(test.labels)), test.labels]
    order = np.argsort(-of_truth, kind="stable")
    right = (test.predicted == test.labels)[order]
    hits, errors = order[right], order[~right][::-1]
    # as many hits of each class, the positive one first
    each = -(-EXPLAINED // len(dataset.classes))
    hits = np.concatenate(
        [hits[test.labels[hits] == index][:each] for index in reversed(range(len(dataset.classes)))]
    )
    chosen = np.concatenate([hits[:EXPLAINED], errors[:EXPLAINED]])
    rows = test.rows[chosen]
    images = dataset.images[rows]
    heat = heat_maps.heat_maps(classifier, images, test.predicted[chosen])
    plots.explanations(
        images,
        np.stack(
            [heat_maps.overlay(image, map_) for image, map_ in zip(images, heat, strict=True)]
        ),
        [
            f"{'hit' if test.predicted[i] == test.labels[i] else 'ERROR'}: "
            f"{dataset.classes[test.labels[i]]}, called {dataset.classes[test.predicted[i]]} "
            f"with {test.probabilities[i, test.predicted[i]]:.3f}\n"
            f"{Path(dataset.rows[row].path).name}"
            for i, row in zip(chosen, rows, strict=True)
        ],
        f"Surest hits, and the worst of {len(errors)} errors: red is what spoke for the answer",
        EXPLANATIONS,
    )
