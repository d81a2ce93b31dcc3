"""Confidence intervals: the bootstrap over clusters of images, and the exact binomial interval."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from image_classifier.evaluation.metrics import classification_metrics

if TYPE_CHECKING:
    from image_classifier.evaluation.predictions import Predictions

RESAMPLES = 1000  # the ends of an interval then vary by about a tenth of its width


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
    says nothing: accuracy, sensitivity and specificity then have the exact binomial interval, in
    which a cluster counts once.
    """
    samples = [
        classification_metrics(
            predictions.labels[rows], predictions.probabilities[rows], predictions.predicted[rows]
        )
        for rows in resample(predictions.clusters, resamples)
    ]
    ends = {name: percentiles([sample[name] for sample in samples]) for name in samples[0]}
    rows_of = {
        "accuracy": predictions.labels >= 0,
        "sensitivity": predictions.labels == 1,
        "specificity": predictions.labels == 0,
    }
    for name, chosen in rows_of.items():
        if name in ends and ends[name] in ((0.0, 0.0), (1.0, 1.0)):
            independent = len(np.unique(np.asarray(predictions.clusters)[chosen]))
            ends[name] = exact_interval(int(ends[name][0]) * independent, independent)
    return ends


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact 95% interval of a proportion (Clopper and Pearson, Biometrika 26, 1934)."""
    interval = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5% and 97.5% percentiles, without NaNs; NaN when there is nothing else."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
