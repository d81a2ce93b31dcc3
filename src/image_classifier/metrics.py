"""Figures of merit for predicted probabilities."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.dataset import PreparedDataset, SplitName

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """A classifier's answers for one split, and how good they are.

    Attributes:
        rows: int64 array of shape (images,): row numbers in the manifest.
        labels: int64 array of shape (images,): the true classes.
        probabilities: float array of shape (images, classes), values 0 to 1.
        predicted: int64 array of shape (images,): the classes answered.
        figures: See `classification_metrics`.
    """

    rows: Integers
    labels: Integers
    probabilities: Floats
    predicted: Integers
    figures: dict[str, float]


def measure(classifier: "Classifier", dataset: "PreparedDataset", split: "SplitName") -> Measured:
    """Run a classifier over the images of one split."""
    rows = dataset.indices(split)
    labels = dataset.labels[rows]
    # a part at a time, so that memory does not grow with the images
    parts = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    probabilities = np.concatenate(
        [classifier.probabilities(dataset.images[part]) for part in parts]
    )
    predicted = classifier.decide(probabilities)
    figures = classification_metrics(labels, probabilities, predicted)
    return Measured(rows, labels, probabilities, predicted, figures)


def classification_metrics(
    labels: Integers, probabilities: Floats, predicted: Integers
) -> dict[str, float]:
    """Return the metrics of a set of predictions.

    Args:
        labels: int array of shape (images,): the true classes.
        probabilities: float array of shape (images, classes), values 0 to 1.
        predicted: int array of shape (images,): the classes answered.

    Returns:
        Always `accuracy` and `loss` (mean cross-entropy, in nats). For two classes, of which
        the second is positive: `sensitivity`, `specificity`, `precision`, `f1`, `roc_auc`,
        `pr_auc` (average precision) and `brier`. For more: `balanced_accuracy`, `f1_macro` and
        `roc_auc_macro` (one against the rest). All but `loss` lie in 0 to 1.
    """
    classes = range(probabilities.shape[1])
    result = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "loss": cross_entropy(labels, probabilities),
    }
    if len(classes) == 2:
        positive = probabilities[:, 1]
        result |= {
            "sensitivity": sklearn_metrics.recall_score(labels, predicted),
            "specificity": sklearn_metrics.recall_score(labels, predicted, pos_label=0),
            "precision": sklearn_metrics.precision_score(labels, predicted, zero_division=0),
            "f1": sklearn_metrics.f1_score(labels, predicted, zero_division=0),
            "roc_auc": sklearn_metrics.roc_auc_score(labels, positive),
            "pr_auc": sklearn_metrics.average_precision_score(labels, positive),
            "brier": sklearn_metrics.brier_score_loss(labels, positive),
        }
    else:
        result |= {
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
            "f1_macro": sklearn_metrics.f1_score(labels, predicted, average="macro"),
            "roc_auc_macro": sklearn_metrics.roc_auc_score(
                labels, probabilities, multi_class="ovr", labels=list(classes)
            ),
        }
    return {name: float(value) for name, value in result.items()}


def cross_entropy(labels: Integers, probabilities: Floats) -> float:
    """Return the mean of -ln(probability of the true class), clipped as Keras does."""
    epsilon = 1e-7  # keras.config.epsilon()
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(chosen.clip(epsilon, 1 - epsilon)).mean())
