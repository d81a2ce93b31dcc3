"""Figures of merit for predicted probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, rankdata
from sklearn import metrics as sklearn_metrics

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.data.dataset import PreparedDataset
    from image_classifier.data.folders import SplitName

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]

RESAMPLES = 1000  # of the bootstrap: the ends of an interval then vary by about a tenth of it


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
        Always `accuracy`, `loss` (mean cross-entropy, in nats) and `calibration_error`. For two
        classes, of which the second is positive: `sensitivity`, `specificity`, `precision`, `f1`,
        `roc_auc`, `pr_auc` (average precision) and `brier`. For more: `balanced_accuracy`,
        `f1_macro` and `roc_auc_macro` (one against the rest). All but `loss` lie in 0 to 1; what
        the labels leave undefined is NaN, such as `sensitivity` without positive images.
    """
    result = {
        "accuracy": np.mean(labels == predicted),
        "loss": cross_entropy(labels, probabilities),
    }
    several = len(np.unique(labels)) > 1
    if probabilities.shape[1] == 2:
        positive = probabilities[:, 1]
        # from the counts, because a bootstrap comes here a thousand times
        actual, called = labels == 1, predicted == 1
        hits, positives, calls = np.sum(actual & called), actual.sum(), called.sum()
        negatives, rejections = np.sum(~actual), np.sum(~actual & ~called)
        result |= {
            "sensitivity": hits / positives if positives else np.nan,
            "specificity": rejections / negatives if negatives else np.nan,
            "precision": hits / calls if calls else 0.0,
            "f1": 2 * hits / (calls + positives) if calls + positives else 0.0,
            "roc_auc": area_under_roc(labels, positive) if several else np.nan,
            "pr_auc": sklearn_metrics.average_precision_score(labels, positive)
            if several
            else np.nan,
            "brier": np.mean((positive - labels) ** 2),
        }
    else:
        result |= {
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
            "f1_macro": sklearn_metrics.f1_score(labels, predicted, average="macro"),
            "roc_auc_macro": macro_auc(labels, probabilities),
        }
    result["calibration_error"] = calibration_error(labels, probabilities)
    return {name: float(value) for name, value in result.items()}


def area_under_roc(labels: Integers, positive: Floats) -> float:
    """Return the area under the ROC curve, 0 to 1: the share of pairs that are in order.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18, 1947. scikit-learn's takes 1.7
    milliseconds for 174 images, this one 0.07, and the bootstrap needs it a thousand times.
    """
    number = np.sum(labels == 1)
    ranks = rankdata(positive)[labels == 1].sum()
    pairs = number * (len(labels) - number)
    return float((ranks - number * (number + 1) / 2) / pairs)


def macro_auc(labels: Integers, probabilities: Floats) -> float:
    """Return the mean area under the ROC curve of each class against the rest, 0 to 1.

    Classes that the labels lack, or that are all there is, are passed over.
    """
    areas = [
        area_under_roc((labels == index).astype(np.int64), probabilities[:, index])
        for index in np.unique(labels)
        if not np.all(labels == index)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def calibration_error(labels: Integers, probabilities: Floats, bins: int = 10) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, 0 to 1.

    The highest probability of each image is its confidence. Images are put in bins of equal width
    by it; the result is the mean difference of confidence and accuracy over the bins, weighted by
    their images. Source: Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, confidence, bins) - np.bincount(bin_of, right, bins)
    return float(np.abs(gaps).sum() / len(labels))


def resample(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Integers]:
    """Yield row numbers for bootstrap samples: whole groups, drawn with replacement.

    Args:
        groups: The group of each row; rows of one group are not independent, so they come or stay
            away together.
        resamples: How many samples.
        seed: Decides all of them.

    Yields:
        int64 arrays of shape (rows,), or about that where groups differ in size.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; by groups: Field and
    Welsh, Bootstrapping clustered data, 2007.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    rows = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([rows[i] for i in generator.integers(0, len(rows), len(rows))])


def intervals(
    measured: Measured, groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95% bootstrap interval of every figure: its 2.5% and 97.5% percentiles.

    Where all answers are right, or all wrong, every sample is the same and says nothing; accuracy,
    sensitivity and specificity then have the exact binomial interval, a group counting once.
    """
    samples = [
        classification_metrics(
            measured.labels[rows], measured.probabilities[rows], measured.predicted[rows]
        )
        for rows in resample(groups, resamples, seed)
    ]
    ends = {name: percentiles([sample[name] for sample in samples]) for name in samples[0]}
    rows = {
        "accuracy": measured.labels >= 0,
        "sensitivity": measured.labels == 1,
        "specificity": measured.labels == 0,
    }
    for name, chosen in rows.items():
        if name in ends and ends[name] in ((0.0, 0.0), (1.0, 1.0)):
            independent = len(np.unique(np.asarray(groups)[chosen]))
            ends[name] = exact_interval(int(ends[name][0]) * independent, independent)
    return ends


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact 95% interval of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    interval = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5% and 97.5% percentiles; NaNs are passed over."""
    known = np.asarray(values)[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def cross_entropy(labels: Integers, probabilities: Floats) -> float:
    """Return the mean of -ln(probability of the true class), clipped as Keras does."""
    epsilon = 1e-7  # keras.config.epsilon()
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(chosen.clip(epsilon, 1 - epsilon)).mean())
