"""Confidence intervals: exact ones of shares, and the bootstrap over clusters of images."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import beta, binomtest, norm
from scipy.stats import t as student

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
    """Return the 95% interval of every metric.

    Accuracy, sensitivity, specificity, precision and F1 have the intervals of `share_ends` and
    `class_intervals`: with few errors, the bootstrap's are too narrow. Balanced accuracy, the mean
    F1 and the ROC-AUC of two classes have the wider one of the bootstrap's and of
    `mean_recall_ends`, `mean_ends` and `area_ends`. A mean ROC-AUC of 1 has an interval from that
    of a balanced accuracy of 1: if all images are ranked rightly, some threshold also decides them
    rightly, and with the recalls p and q there the area is at least pq, which is at least
    p + q - 1. All others have the bootstrap's; where all samples have the best value, or all the
    worst, it says nothing, and the interval is not known: NaN.
    """
    labels, predicted, clusters = predictions.labels, predictions.predicted, predictions.clusters
    samples = [
        classification_metrics(labels[rows], predictions.probabilities[rows], predicted[rows])
        for rows in resample(clusters, resamples)
    ]
    ends = {name: percentiles([sample[name] for sample in samples]) for name in samples[0]}
    ends["accuracy"] = share_ends(predicted == labels, clusters)
    of_classes = class_intervals(predictions)
    if predictions.probabilities.shape[1] == 2:
        for name, of, index in (
            ("sensitivity", "recall", 1), ("specificity", "recall", 0),
            ("precision", "precision", 1), ("f1", "f1", 1),
        ):  # fmt: skip
            ends[name] = float(of_classes[of][index, 0]), float(of_classes[of][index, 1])
        area = predictions.metrics["roc_auc"]
        names = np.asarray(clusters)
        positive, negative = (len(np.unique(names[labels == index])) for index in (1, 0))
        ends["roc_auc"] = wider(ends["roc_auc"], area_ends(area, positive, negative))
    ends["balanced_accuracy"] = wider(
        ends["balanced_accuracy"], mean_recall_ends(labels, predicted, clusters)
    )
    classes = predictions.probabilities.shape[1]
    # an error lowers the F1 of two classes, so their variances add up to at most twice the sum
    f1 = mean_ends(class_metrics(labels, predicted, classes)["f1"], of_classes["f1"], 2.0)
    ends["f1_macro"] = wider(ends["f1_macro"], f1)
    for name in ends.keys() & {"roc_auc_macro", "pr_auc", "loss", "brier", "calibration_error"}:
        if not is_certain(ends[name]):
            continue
        ends[name] = (float("nan"), float("nan"))
        if name == "roc_auc_macro" and predictions.metrics[name] > 0.5:
            low, _ = mean_recall_ends(labels, labels, clusters)
            ends[name] = (max(0.0, 2 * low - 1), 1.0)
    return ends


def is_certain(ends: tuple[float, float]) -> bool:
    """Return whether all bootstrap samples have the best value, or all the worst.

    The samples are sums of floating-point numbers, so they may miss it by a rounding error.
    """
    return any(np.allclose(ends, certain, rtol=0, atol=1e-9) for certain in CERTAIN)


def wider(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Return the smaller of the lower ends, and the larger of the upper ones, without NaNs."""
    return float(np.fmin(first[0], second[0])), float(np.fmax(first[1], second[1]))


def mean_recall_ends(
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    clusters: Sequence[str],
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of balanced accuracy that follows from those of the recalls.

    Unlike the bootstrap, it has a width where every recall is 0 or 1, such as for a model that
    answers one class only. If all images are right, or all wrong: see `certain_mean_recall`. It
    takes the classes as independent; images of one cluster with several classes are not, so where
    there are any, the bootstrap's interval may be wider.

    Args:
        labels: int array of shape (images,): the true classes.
        predicted: int array of shape (images,): the predicted classes.
        clusters: The cluster of each image.
        level: The level of the interval.
    """
    right, names = predicted == labels, np.asarray(clusters)
    classes = np.unique(labels)
    if right.all() or not right.any():
        independent = [len(np.unique(names[labels == index])) for index in classes]
        low = certain_mean_recall(independent, level)
        return (low, 1.0) if right.all() else (0.0, 1 - low)
    recalls = np.array([right[labels == index].mean() for index in classes])
    ends = [
        share_ends(right[labels == index], names[labels == index].tolist(), level)
        for index in classes
    ]
    return mean_ends(recalls, np.array(ends))


def mean_ends(
    values: npt.NDArray[np.floating], ends: npt.NDArray[np.floating], together: float = 1.0
) -> tuple[float, float]:
    """Return the interval of the mean of independent values, from their intervals.

    Source: Zou and Donner, Construction of confidence limits about effect measures: a general
    approach, Statistics in Medicine 27, 2008.

    Args:
        values: float array of shape (values,); NaN: left out.
        ends: float array of shape (values, 2): the intervals.
        together: How many times as large as for independent values their variance may be.
    """
    known = ~np.isnan(values)
    values, ends = values[known], ends[known]
    mean, factor = values.mean(), np.sqrt(together) / len(values)
    return (
        float(max(0.0, mean - factor * np.linalg.norm(values - ends[:, 0]))),
        float(min(1.0, mean + factor * np.linalg.norm(ends[:, 1] - values))),
    )


def area_ends(
    area: float, positive: int, negative: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the area under a ROC curve, which has a width also for an area of 1.

    It has all areas from which the measured one is at most so many standard errors away as the
    normal distribution allows. Source: method 5 of Newcombe, Confidence intervals for an effect
    size measure based on the Mann-Whitney statistic, part 2, Statistics in Medicine 25, 2006; its
    variance is that of Hanley and McNeil, Radiology 143, 1982.

    Args:
        area: 0 to 1; NaN gives NaN.
        positive: The number of independent positive images.
        negative: The number of independent negative images.
        level: The level of the interval.
    """
    if np.isnan(area):
        return float("nan"), float("nan")
    quantile = norm.ppf((1 + level) / 2)
    mean = (positive + negative) / 2 - 1

    def too_far(true: float) -> float:
        pairs = 1 + mean * ((1 - true) / (2 - true) + true / (1 + true))
        variance = true * (1 - true) * pairs / (positive * negative)
        return float((area - true) ** 2 - quantile**2 * variance)

    low = brentq(too_far, 0, area - 1e-12) if area > 1e-9 else 0.0
    high = brentq(too_far, area + 1e-12, 1) if area < 1 - 1e-9 else 1.0
    return float(low), float(high)


def class_intervals(
    predictions: "Predictions", level: float = 0.95
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the intervals of precision, recall and F1: arrays of shape (classes, 2).

    F1 is 2 J / (1 + J), where J is the share of hits among the images that are of the class or
    predicted as it. So all three follow from `share_ends`.
    """
    names, labels = np.asarray(predictions.clusters), predictions.labels
    predicted = predictions.predicted
    ends: dict[str, list[tuple[float, float]]] = {"precision": [], "recall": [], "f1": []}
    for index in range(predictions.probabilities.shape[1]):
        of_class, called = labels == index, predicted == index
        for name, chosen in (
            ("precision", called), ("recall", of_class), ("f1", of_class | called),
        ):  # fmt: skip
            hits = (of_class & called)[chosen]
            low, high = share_ends(hits, names[chosen].tolist(), level)
            if name == "f1":
                low, high = 2 * low / (1 + low), 2 * high / (1 + high)
            ends[name].append((low, high))
    return {name: np.array(found) for name, found in ends.items()}


def exact_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934)."""
    interval = binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def share_ends(
    chosen: npt.NDArray[np.bool_],
    clusters: Sequence[str],
    level: float = 0.95,
    equally: bool = False,
) -> tuple[float, float]:
    """Return the interval of the share of chosen images: NaN without any image.

    It is the exact binomial one. With clusters it is that of as many independent images as have the
    same variance as the share, which is estimated from the clusters. If all images are chosen, or
    none, the clusters say nothing about it: each then counts once.

    Source: Korn and Graubard, Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data, Survey Methodology 24, 1998. In simulations with 40
    to 170 independent images and shares of 90 to 99%, it has the true share in 96 to 99% of the
    cases, the bootstrap in 57 to 94%; with 10 to 60 clusters in 86 to 99%, the bootstrap in 69 to
    94%.

    Args:
        chosen: bool array of shape (images,).
        clusters: The cluster of each image.
        level: The level of the interval.
        equally: Whether each cluster has the same weight, instead of each image.
    """
    images = len(chosen)
    if not images:
        return float("nan"), float("nan")
    _, numbers, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    number = len(sizes)
    hits, weights = np.bincount(numbers, chosen), np.asarray(sizes, float)
    if equally:
        hits, weights = hits / weights, np.ones(number)
    share = hits.sum() / weights.sum()
    independent = float(number)
    if 1 < number < images and 0 < share < 1:
        squares = np.sum((hits - share * weights) ** 2) * number / (number - 1)
        wanted = share * (1 - share) * weights.sum() ** 2
        independent = images if squares * images <= wanted else wanted / squares
        tail = (1 + level) / 2  # the variance is estimated: Student's t instead of the normal
        independent *= (student.ppf(tail, images - 1) / student.ppf(tail, number - 1)) ** 2
    tail, right = (1 - level) / 2, share * independent
    wrong = independent - right
    low = beta.ppf(tail, right, wrong + 1) if share > 0 else 0.0
    high = beta.ppf(1 - tail, right + 1, wrong) if share < 1 else 1.0
    return float(low), float(high)


def share_interval(
    chosen: npt.NDArray[np.bool_], clusters: Sequence[str], equally: bool = False
) -> dict[str, float]:
    """Return the share of chosen images as `value`, with its 95% interval, `low` and `high`.

    Args:
        chosen: bool array of shape (images,), at least one image.
        clusters: The cluster of each image.
        equally: See `share_ends`.
    """
    _, numbers, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    weights = 1 / sizes[numbers] if equally else np.ones(len(chosen))
    low, high = share_ends(chosen, clusters, equally=equally)
    return {"value": float(np.average(chosen, weights=weights)), "low": low, "high": high}


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
