"""The metrics of a set of predictions."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import sklearn
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]

HEADLINE = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "roc_auc")


def classification_metrics(
    labels: Integers, probabilities: Floats, predicted: Integers
) -> dict[str, float]:
    """Return the metrics of a set of predictions.

    Args:
        labels: int array of shape (images,): the true classes.
        probabilities: float array of shape (images, classes), values 0 to 1; each row sums to 1.
        predicted: int array of shape (images,): the predicted classes.

    Returns:
        Always `accuracy`, `balanced_accuracy` (the mean recall of the classes), `f1_macro`
        (their mean F1), `loss` (mean cross-entropy, in nats) and `calibration_error`. For two
        classes, of which the second is positive: `sensitivity`, `specificity`, `precision`, `f1`,
        `roc_auc`, `pr_auc` (average precision) and `brier`. For more classes: `roc_auc_macro`
        (each class against the rest). All but `loss` lie between 0 and 1. A metric is NaN where
        the labels do not define it, such as `sensitivity` without positive images.
    """
    # a bootstrap calls this a thousand times, on arrays that are known to be valid
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        result = {
            "balanced_accuracy": balanced_accuracy(labels, predicted),
            "accuracy": np.mean(labels == predicted),
        }
        if probabilities.shape[1] == 2:
            result |= _of_two_classes(labels, probabilities[:, 1], predicted)
        else:
            result["roc_auc_macro"] = roc_auc_macro(labels, probabilities)
        result |= {
            "f1_macro": f1_macro(labels, predicted),
            "loss": cross_entropy(labels, probabilities),
            "calibration_error": calibration_error(labels, probabilities),
        }
    return {name: float(value) for name, value in result.items()}


def headline(metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """Return the most telling of the metrics of a split, with its name before theirs."""
    return {f"{split}_{name}": metrics[name] for name in HEADLINE if name in metrics}


def class_metrics(labels: Integers, predicted: Integers, classes: int) -> dict[str, Floats]:
    """Return precision, recall and F1 of each class, float arrays of shape (classes,), 0 to 1.

    Recall is NaN for a class without images, precision for one that is never predicted, and F1
    where both would be.
    """
    pairs = np.bincount(labels * classes + predicted, minlength=classes**2)
    table = pairs.reshape(classes, classes)  # true class, predicted class
    hits, images, calls = np.diag(table), table.sum(axis=1), table.sum(axis=0)

    def share(part: Integers, whole: Integers) -> Floats:
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

    return {
        "precision": share(hits, calls),
        "recall": share(hits, images),
        "f1": share(2 * hits, images + calls),
    }


def balanced_accuracy(labels: Integers, predicted: Integers) -> float:
    """Return the mean recall of the classes that have images, 0 to 1; chance is 1 / classes.

    Source: Brodersen et al., The balanced accuracy and its posterior distribution, 2010.
    """
    classes = int(max(labels.max(), predicted.max())) + 1
    return float(np.nanmean(class_metrics(labels, predicted, classes)["recall"]))


def f1_macro(labels: Integers, predicted: Integers) -> float:
    """Return the mean F1 of the classes that have images or are predicted, 0 to 1."""
    classes = int(max(labels.max(), predicted.max())) + 1
    return float(np.nanmean(class_metrics(labels, predicted, classes)["f1"]))


def chance(labels: Integers, predicted: Integers, classes: int) -> dict[str, float]:
    """Return what a classifier reaches that does not look at the images.

    Args:
        labels: int array of shape (images,): the true classes.
        predicted: int array of shape (images,): what the model predicts.
        classes: The number of classes.

    Returns:
        For `accuracy`, what the answer of the largest class reaches. For `sensitivity` and
        `specificity`, what random answers reach that are positive as often as the model's.
    """
    shares = np.bincount(labels, minlength=classes) / len(labels)
    result = {
        "accuracy": float(shares.max()),
        "balanced_accuracy": 1 / classes,
        "f1_macro": 1 / classes,
        "roc_auc": 0.5,
        "roc_auc_macro": 0.5,
    }
    if classes == 2:
        positive = float(np.mean(predicted == 1))
        result |= {
            "sensitivity": positive,
            "specificity": 1 - positive,
            "precision": float(shares[1]),
            "pr_auc": float(shares[1]),
        }
    return result


def _of_two_classes(labels: Integers, positive: Floats, predicted: Integers) -> dict[str, float]:
    # from the counts: scikit-learn's functions build a confusion matrix for each of the four
    actual, called = labels == 1, predicted == 1
    hits, positives, calls = np.sum(actual & called), actual.sum(), called.sum()
    negatives, rejections = np.sum(~actual), np.sum(~actual & ~called)
    both = bool(positives and negatives)
    return {
        "sensitivity": hits / positives if positives else np.nan,
        "specificity": rejections / negatives if negatives else np.nan,
        "roc_auc": roc_auc(actual, positive) if both else np.nan,
        "precision": hits / calls if calls else 0.0,
        "f1": 2 * hits / (calls + positives) if calls + positives else 0.0,
        "pr_auc": average_precision_score(labels, positive) if both else np.nan,
        "brier": np.mean((positive - labels) ** 2),
    }


def cross_entropy(labels: Integers, probabilities: Floats) -> float:
    """Return the mean cross-entropy in nats, at least 0.

    Args:
        labels: int array of shape (images,): the true classes.
        probabilities: float array of shape (images, classes), values 0 to 1; each row sums to 1.
    """
    of_true = probabilities[np.arange(len(labels)), labels]
    smallest = np.finfo(probabilities.dtype).eps  # so that the result is finite
    return float(-np.log(np.clip(of_true, smallest, 1)).mean())


def roc_auc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Return the area under the ROC curve, 0 to 1, from the ranks of the scores.

    It is the share of the pairs of a positive and another image that are ranked rightly; ties count
    half. A bootstrap needs it a thousand times, and this takes a twentieth of the time of
    scikit-learn's `roc_auc_score`. Source: Hanley and McNeil, Radiology 143, 1982.

    Args:
        positive: bool array of shape (images,), with both values.
        scores: float array of shape (images,).
    """
    number, others = int(positive.sum()), int((~positive).sum())
    pairs = rankdata(scores)[positive].sum() - number * (number + 1) / 2
    return float(pairs / (number * others))


def roc_auc_macro(labels: Integers, probabilities: Floats) -> float:
    """Return the mean area under the ROC curve of each class against the rest, 0 to 1.

    Skips classes that the labels lack. NaN when all labels are of one class.
    """
    areas = [
        roc_auc(labels == index, probabilities[:, index])
        for index in np.unique(labels)
        if not np.all(labels == index)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def calibration_error(labels: Integers, probabilities: Floats, bins: int = 10) -> float:
    """Return the expected calibration error: the distance of confidence from accuracy, 0 to 1.

    The confidence of an image is its highest probability. Images are put into bins of equal width
    by their confidence; the result is the mean difference of confidence and accuracy over the
    bins, weighted by their number of images. Source: Guo et al., On Calibration of Modern Neural
    Networks, 2017.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, confidence, bins) - np.bincount(bin_of, right, bins)
    return float(np.abs(gaps).sum() / len(labels))
