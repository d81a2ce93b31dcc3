"""What a test set can prove: which differences between two models it shows, and how many more
images would decide a question that is open.

The unit is the independent image: images of one cluster (a patient or group, or copies) say no more
than one image.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation.looks import least_differing, level_of_look

POWER = 0.8  # the usual wish: a real difference is shown in four of five cases
LEVEL = level_of_look(1)  # of the gate's interval when a test set is looked at for the first time
WEAKER = 0.9  # what the weaker of the two models is assumed to reach
STEP = 0.001  # differences are searched in tenths of a point
DRAWS = 10_000  # the power of a difference is then known to 0.4 points (standard error)

ASSUMPTION = (
    "The level is that of the gate's first look. Of two models that share errors, smaller "
    "differences can be shown."
)


def independent_images(rows: Sequence[ImageRow]) -> int:
    """Return how many independent images say as much as these rows.

    A cluster counts once. Where clusters have unequal sizes, it is less: a metric weighs a cluster
    by its images, so large ones decide. With cluster sizes m the number is (sum m)² / sum m².

    Source: Kish, Survey Sampling, 1965 (the effective sample size), for clusters whose images are
    all right or all wrong. If they agree less, the rows say more.
    """
    sizes = np.array(list(Counter(row.cluster for row in rows).values()), float)
    return int(sizes.sum() ** 2 / np.sum(sizes**2) + 1e-9) if len(sizes) else 0


def smallest_differences(
    rows: Sequence[ImageRow], classes: Sequence[str]
) -> dict[str, float | None]:
    """Return the smallest true difference that the gate's comparison shows with 80% power.

    Two models classify the same images, and a difference is shown when its interval is above 0,
    as at the gate's first look (`looks.level_of_look`). See `power_of` for what is assumed.

    Args:
        rows: The test images.
        classes: All classes; of two, the second is positive.

    Returns:
        For `accuracy`, `balanced_accuracy` and, with two classes, `sensitivity` and `specificity`:
        the difference, from 0.001 to 0.1; None if not even 100% against 90% is shown.
    """
    of_class = [independent_images([row for row in rows if row.label == name]) for name in classes]
    samples = {"accuracy": [independent_images(rows)], "balanced_accuracy": of_class}
    if len(classes) == 2:
        samples |= {"sensitivity": [of_class[1]], "specificity": [of_class[0]]}
    return {name: _smallest_difference(images) for name, images in samples.items()}


def _smallest_difference(images: Sequence[int]) -> float | None:
    """Return the smallest difference of a mean of recalls that is shown with 80% power.

    Args:
        images: The number of independent images of each class; of one "class" for accuracy.
    """
    if min(images, default=0) == 0:
        return None
    low, high = 0, round((1 - WEAKER) / STEP)
    if power_of(high * STEP, images) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle * STEP, images) >= POWER else (middle, high)
    return round(high * STEP, 3)


def power_of(difference: float, images: Sequence[int]) -> float:
    """Return how often a true difference between two models is shown, 0 to 1.

    For each class, the images that only the better model recognizes, and those that only the weaker
    one does, are drawn (as in McNemar's test). The difference is shown if it is larger than 2.24 of
    its standard errors (the 97.5% interval), which are estimated from the same draw, and the models
    differ on as many images as the gate wants (`looks.least_differing`). The variances of the
    recalls add up in their mean. The weaker model reaches 90% in every class, and the errors of the
    two are independent. Against the gate's bootstrap, see tests/test_power.py.

    Args:
        difference: Of the models' recall of every class, 0 to 0.1.
        images: The number of independent images of each class, at least 1.
    """
    better = min(WEAKER + difference, 1.0)
    only_better, only_weaker = better * (1 - WEAKER), WEAKER * (1 - better)
    generator = np.random.default_rng(0)
    total, variance, differing = np.zeros((3, DRAWS))
    for number in images:
        gained = generator.binomial(number, only_better, DRAWS)
        lost = generator.binomial(number - gained, only_weaker / (1 - only_better))
        mean = (gained - lost) / number
        total += mean
        variance += ((gained + lost) / number - mean**2) / number
        differing += gained + lost
    certain = total > quantile_of(LEVEL) * np.sqrt(variance)
    return float(np.mean(certain & (differing >= least_differing(LEVEL))))


def quantile_of(level: float) -> float:
    """Return the normal quantile of a two-sided interval: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def describe_power(images: int, independent: int, differences: Mapping[str, float | None]) -> str:
    """Return a short paragraph on what a test set can prove.

    Args:
        images: The number of test images.
        independent: See `independent_images`.
        differences: See `smallest_differences`.
    """
    number = f"What the {images} test images"
    if independent < images:
        number += f", which say as much as {independent} independent ones,"
    shown = [
        f"{value * 100:.1f} points in {name}"
        for name, value in differences.items()
        if value is not None
    ]
    hidden = ", ".join(name for name, value in differences.items() if value is None)
    text = (
        f"{number} can show with 80% power, if the weaker of two models reaches 90% in every class "
        f"and their errors are independent: "
    )
    if shown:
        text += f"a true difference of at least {', '.join(shown)}. "
        text += f"In {hidden} none: not even 100% against 90%. " if hidden else ""
    else:
        text += f"no difference in {hidden}, not even 100% against 90%. "
    return text.strip()


def images_needed(
    value: float, low: float, high: float, limit: float, images: int, level: float = 0.95
) -> int | None:
    """Return how many more test images would decide that a value is above a limit, at 80% power.

    The value must lie 1.96 + 0.84 standard errors above the limit (for a 95% interval), and the
    standard error shrinks with the root of the number of images. It is taken from the interval:
    from its lower half, which faces the limit, or from the whole where that is wider.

    Args:
        value: A metric, or a difference; assumed to stay as it is.
        low: The lower end of its interval.
        high: The upper end.
        limit: Chance, a minimum, or 0.
        images: The number of images that the value was measured on: of a recall, sensitivity or
            specificity the images of that class; otherwise all. The further images must have the
            present shares of classes, and groups of the present size.
        level: The level of the interval.

    Returns:
        The number of further images; 0 if the interval is above the limit. None if the value is not
        above the limit, where more images do not help, or if it has no interval.
    """
    if any(map(math.isnan, (value, low, high))) or value <= limit:
        return None
    if low > limit:
        return 0
    quantile = quantile_of(level)
    error = max(value - low, (high - low) / 2) / quantile
    wanted = quantile + NormalDist().inv_cdf(POWER)
    needed = images * (error * wanted / (value - limit)) ** 2
    return max(1, math.ceil(needed) - images)
