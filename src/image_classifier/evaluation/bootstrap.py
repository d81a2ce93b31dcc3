"""Confidence intervals: the bootstrap over clusters of images, and the exact binomial interval."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binomtest

from image_classifier.evaluation.metrics import class_metrics, classification_metrics

if TYPE_CHECKING:
    from image_classifier.evaluation.predictions import Predictions

RESAMPLES = 1000  # the ends of an interval then vary by about a tenth of its width
CERTAIN = ((0.0, 0.0), (1.0, 1.0))  # of these the bootstrap knows no uncertainty


def resample(
    clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield row numbers of bootstrap samples: whole clusters, drawn with replacement.

    Args:
        clusters: The cluster of each row. Rows of one cluster are not independent, so they are
            drawn together.
        resamples: The number of samples.
        seed: Decides all samples.

    Yields:
        int64 arrays of shape (rows,), or about that when clusters differ in size.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; with clusters: Field and
    Welsh, Bootstrapping clustered data, 2007.
    """
    _, numbers = np.unique(clusters, return_inverse=True)
    rows = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([rows[i] for i in generator.integers(0, len(rows), len(rows))])


def intervals(
    predictions: "Predictions", resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Return the 95% bootstrap interval of every metric.

    When all predictions are right, or all are wrong, every sample is the same, so the bootstrap
    says nothing. Accuracy, sensitivity, specificity and precision then have the exact binomial
    interval, in which a cluster counts once; balanced accuracy has that of `certain_mean_recall`.
    A ROC-AUC of 1 has an interval from it: if all images are ranked rightly, some threshold also
    decides them rightly, and with the recalls p and q there the area is at least pq, which is at
    least p + q - 1. The interval of another metric is then not known: NaN.
    """
    samples = [
        classification_metrics(
            predictions.labels[rows], predictions.probabilities[rows], predictions.predicted[rows]
        )
        for rows in resample(predictions.clusters, resamples)
    ]
    ends = {name: percentiles([sample[name] for sample in samples]) for name in samples[0]}
    rows_of = {"accuracy": predictions.labels >= 0}
    if predictions.probabilities.shape[1] == 2:
        rows_of |= {
            "sensitivity": predictions.labels == 1,
            "specificity": predictions.labels == 0,
            "precision": predictions.predicted == 1,
        }
    for name, chosen in rows_of.items():
        if ends[name] in CERTAIN:
            ends[name] = _exact(ends[name][0], predictions, chosen)
    low, high = interval_of_mean_recall(1.0, predictions.labels, predictions.clusters)
    for name in ends.keys() - rows_of.keys():
        if ends[name] not in CERTAIN:
            continue
        if name == "balanced_accuracy":
            ends[name] = (low, high) if ends[name][0] == 1 else (0.0, 1 - low)
        elif name.startswith("roc_auc") and ends[name][0] == 1:
            ends[name] = (max(0.0, 2 * low - 1), 1.0)
        else:
            ends[name] = (float("nan"), float("nan"))
    return ends


def interval_of_mean_recall(
    value: float, labels: npt.NDArray[np.int64], clusters: Sequence[str]
) -> tuple[float, float]:
    """Return the exact 95% interval of a balanced accuracy that is 0 or 1; a cluster counts once.

    Args:
        value: 0 or 1.
        labels: int array of shape (images,): the true classes.
        clusters: The cluster of each image.
    """
    names = np.asarray(clusters)
    low = certain_mean_recall(
        [len(np.unique(names[labels == index])) for index in np.unique(labels)]
    )
    return (low, 1.0) if value == 1 else (0.0, 1 - low)


def class_intervals(
    predictions: "Predictions", resamples: int = RESAMPLES
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the 95% intervals of precision, recall and F1: arrays of shape (classes, 2).

    Precision and recall that are 0 or 1 in all samples have the exact binomial interval; F1 is
    then the harmonic mean of their ends.
    """
    classes = predictions.probabilities.shape[1]
    samples = [
        class_metrics(predictions.labels[rows], predictions.predicted[rows], classes)
        for rows in resample(predictions.clusters, resamples)
    ]
    ends = {
        name: np.array(
            [percentiles([sample[name][index] for sample in samples]) for index in range(classes)]
        )
        for name in samples[0]
    }
    for index in range(classes):
        for name, chosen in (
            ("precision", predictions.predicted == index),
            ("recall", predictions.labels == index),
        ):
            if tuple(ends[name][index]) in CERTAIN:
                ends[name][index] = _exact(ends[name][index][0], predictions, chosen)
        if tuple(ends["f1"][index]) in CERTAIN:
            precision, recall = ends["precision"][index], ends["recall"][index]
            if not np.isnan(precision).any():
                ends["f1"][index] = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return ends


def _exact(
    value: float, predictions: "Predictions", chosen: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    independent = len(np.unique(np.asarray(predictions.clusters)[chosen]))
    if not independent:
        return float("nan"), float("nan")
    return exact_interval(int(value) * independent, independent)


def exact_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934)."""
    interval = binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def share_interval(
    chosen: npt.NDArray[np.bool_], clusters: Sequence[str], equally: bool = False
) -> dict[str, float]:
    """Return the share of chosen images as `value`, with its 95% interval, `low` and `high`.

    The interval is the exact binomial one where each image is a cluster of its own; also if all
    are chosen, or none: a cluster then counts once. Otherwise it comes from the bootstrap.

    Args:
        chosen: bool array of shape (images,), at least one image.
        clusters: The cluster of each image.
        equally: Whether each cluster has the same weight, instead of each image.
    """
    _, numbers, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    weights = 1 / sizes[numbers] if equally else np.ones(len(chosen))
    value = float(np.average(chosen, weights=weights))
    if len(sizes) == len(chosen) or chosen.all() or not chosen.any():
        low, high = exact_interval(round(value * len(sizes)), len(sizes))
    else:
        low, high = percentiles(
            [float(np.average(chosen[rows], weights=weights[rows])) for rows in resample(clusters)]
        )
    return {"value": value, "low": low, "high": high}


def certain_low(metric: str, labels: Sequence[str], clusters: Sequence[str], level: float) -> float:
    """Return the lower end of the exact interval of a metric whose value is 1.

    For balanced accuracy see `certain_mean_recall`; accuracy has the binomial interval. For the
    mean F1 the lower ends of the precision and recall of a class are equal, because all images are
    right; their mean is not above the true lower end, where not all classes are worst at once.

    Args:
        metric: `accuracy`, `balanced_accuracy` or `f1_macro`.
        labels: The class of each test image.
        clusters: The cluster of each; a cluster counts once.
        level: The level of the interval, such as 0.95.
    """
    names = np.asarray(clusters)
    images = [len(np.unique(names[np.asarray(labels) == label])) for label in np.unique(labels)]
    if metric == "balanced_accuracy":
        return certain_mean_recall(images, level)
    if metric == "f1_macro":
        return float(np.mean([exact_interval(number, number, level)[0] for number in images]))
    independent = len(np.unique(names))
    return exact_interval(independent, independent, level)[0]


def certain_mean_recall(images: Sequence[int], level: float = 0.95) -> float:
    """Return the lower end of the exact interval of the mean recall, if all images are right.

    With recalls p, all images are right with the probability of the product of p ** images. The
    result is the smallest mean of recalls for which this is at least half of 1 - level, as in the
    interval of Clopper and Pearson, which it equals for one class. By Lagrange, the recalls of that
    mean are proportional to the numbers of images, and at most 1.

    Args:
        images: The number of independent images of each class, at least 1.
        level: The level of the interval.
    """
    numbers = np.asarray(images, float)

    def logarithm(factor: float) -> float:
        recalls = np.minimum(1.0, factor * numbers)
        return float(np.sum(numbers * np.log(recalls)) - np.log((1 - level) / 2))

    factor = brentq(logarithm, 1e-12, 1 / numbers.min())
    return float(np.minimum(1.0, factor * numbers).mean())


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5% and 97.5% percentiles, without NaNs; NaN when there is nothing else."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
