"""How much a result varies by chance: over the folds of a cross-validation, and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
POWER = 0.8
MOST = 100  # jobs or folds; `split.folds` takes no more


@dataclass(frozen=True)
class Result:
    """The value of a metric that one training reached.

    `fold` is None without cross-validation.
    """

    fold: int | None
    seed: int
    value: float


@dataclass(frozen=True)
class Spread:
    """The results of trainings that differ only in fold and seed.

    Attributes:
        folds: The number of folds; 0 without cross-validation.
        seeds: The number of seeds.
        mean: Over the folds of the mean of a fold, or over seeds.
        deviation: The standard deviation of the same; NaN for a single training.
        low: The lower end of the 95% interval of the mean; NaN for a single training.
        high: The upper end.
    """

    folds: int
    seeds: int
    mean: float
    deviation: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the mean with its interval, in words."""
        if np.isnan(self.low):
            return f"{self.mean:.4f}"  # of one training
        of = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        if self.folds:
            of = f"{self.folds} folds, {of}"
        return (
            f"{self.mean:.4f} ± {self.deviation:.4f} ({of}; 95% interval of the mean "
            f"{self.low:.4f} to {self.high:.4f})"
        )


@dataclass(frozen=True)
class Difference:
    """What separates two sets of trainings, on the folds or seeds that both have.

    Attributes:
        mean: First minus second.
        low: The lower end of its interval; NaN with fewer than two common folds or seeds.
        high: The upper end.
        jobs_that_would_tell: How many folds or seeds each would need to show a difference of this
            size at a power of 80%; infinite when more than 100.
        of_folds: Whether the number counts folds.
    """

    mean: float
    low: float
    high: float
    jobs_that_would_tell: float
    of_folds: bool

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def spread(results: Sequence[Result]) -> Spread:
    """Return mean, standard deviation and interval of trainings that differ in fold and seed.

    Either all of them have a fold, or none.

    The seeds of one fold have the same images, so their mean counts as one value. Folds share most
    of their training images; the interval is wider for that.

    Source: Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52, 2003:
    the variance of the mean is (1 / k + test images / training images) times that of a value; with
    k folds the second term is 1 / (k - 1).
    """
    values = _independent(results)
    folds = sum(key is not None for key in _folds(results))
    mean = float(np.mean(list(values.values())))
    deviation = float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else float("nan")
    half = _half_width(deviation, len(values), bool(folds), 1 - LEVEL)
    seeds = len({result.seed for result in results})
    return Spread(folds, seeds, mean, deviation, mean - half, mean + half)


def difference(
    first: Sequence[Result], second: Sequence[Result], comparisons: int = 1
) -> Difference:
    """Return the difference of two sets of trainings, paired by fold, or by seed without folds.

    Args:
        first: Trainings that differ only in fold and seed.
        second: Others.
        comparisons: How many pairs of sets are compared: the interval is widened so that the chance
            of any false difference stays 5% (Bonferroni).
    """
    ours, theirs = _independent(first), _independent(second)
    common = sorted(ours.keys() & theirs.keys())
    of_folds = None not in _folds(first)
    values = [ours[key] - theirs[key] for key in common]
    if len(values) < 2:
        mean = spread(first).mean - spread(second).mean
        return Difference(mean, float("nan"), float("nan"), inf, of_folds)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    risk = (1 - LEVEL) / comparisons
    half = _half_width(deviation, len(values), of_folds, risk)
    return Difference(
        mean, mean - half, mean + half, _needed(mean, deviation, of_folds, risk), of_folds
    )


def _independent(results: Sequence[Result]) -> Mapping[tuple[str, int], float]:
    """Return the mean of each fold; without folds the value of each seed."""
    groups: dict[tuple[str, int], list[float]] = {}
    for result in results:
        key = ("seed", result.seed) if result.fold is None else ("fold", result.fold)
        groups.setdefault(key, []).append(result.value)
    return {key: float(np.mean(values)) for key, values in groups.items()}


def _folds(results: Sequence[Result]) -> set[int | None]:
    return {result.fold for result in results}


def _error(number: int, of_folds: bool) -> float:
    """Return the standard error of a mean, in standard deviations of a value."""
    return sqrt(1 / number + (1 / (number - 1) if of_folds else 0))


def _half_width(deviation: float, number: int, of_folds: bool, risk: float) -> float:
    if number < 2:
        return float("nan")
    return float(student.ppf(1 - risk / 2, number - 1)) * deviation * _error(number, of_folds)


def _needed(mean: float, deviation: float, of_folds: bool, risk: float) -> float:
    """Return the smallest number of folds or seeds that would show a difference of this size."""
    for number in range(2, MOST + 1):
        quantiles = student.ppf([1 - risk / 2, POWER], number - 1).sum()
        if quantiles * deviation * _error(number, of_folds) <= abs(mean):
            return number
    return inf
