"""What a test set can prove is what the gate's own comparison shows."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation.comparison import difference
from image_classifier.evaluation.looks import least_differing
from image_classifier.evaluation.power import (
    LEVEL,
    POWER,
    WEAKER,
    describe_power,
    images_needed,
    independent_images,
    power_of,
    smallest_differences,
)


def rows(label: str, clusters: int, size: int = 1, name: str = "") -> list[ImageRow]:
    """Test images of one class, in clusters of one size."""
    return [
        ImageRow(
            f"{label}{name}{cluster}-{index}.png", label, "test", f"{label}{name}{cluster}",
            "0" * 144, "", "", -1, "PNG", "RGB", 8, 8, 1000,
        )
        for cluster in range(clusters)
        for index in range(size)
    ]  # fmt: skip


def share_shown(metric: str, test: list[ImageRow], gain: float, repeats: int) -> float:
    """Return how often the gate shows such a difference; a cluster is right or wrong as a whole."""
    names = sorted({row.cluster for row in test})
    other = {"a": "b", "b": "a"}
    shown = 0
    for seed in range(repeats):
        generator = np.random.default_rng(seed)
        better, weaker = (
            dict(zip(names, generator.random(len(names)) < right, strict=True))
            for right in (WEAKER + gain, WEAKER)
        )
        predicted = [
            [row.label if right[row.cluster] else other[row.label] for row in test]
            for right in (better, weaker)
        ]
        _, _, low, _, differing = difference(metric, test, *predicted, LEVEL)
        shown += low > 0 and differing >= least_differing(LEVEL)
    return shown / repeats


@pytest.mark.parametrize(
    ("metric", "test", "repeats"),
    [
        ("accuracy", rows("a", 70, 3) + rows("b", 50, 3), 50),
        ("balanced_accuracy", rows("a", 90) + rows("b", 110), 30),
    ],
)
def test_the_gate_shows_the_stated_difference_with_the_stated_power(
    metric: str, test: list[ImageRow], repeats: int
):
    gain = smallest_differences(test, ["a", "b"])[metric]
    assert gain is not None
    # two standard errors of so few repeats
    tolerance = 2 * math.sqrt(POWER * (1 - POWER) / repeats)
    assert share_shown(metric, test, gain, repeats) == pytest.approx(POWER, abs=tolerance)


def test_the_difference_depends_on_the_independent_images_and_not_on_their_copies():
    alone = rows("a", 100) + rows("b", 100)
    patients = rows("a", 100, 4) + rows("b", 100, 4)
    assert independent_images(alone) == independent_images(patients) == 200
    assert smallest_differences(alone, ["a", "b"]) == smallest_differences(patients, ["a", "b"])
    # one patient with 100 images, and 100 with one: mostly that patient
    assert independent_images(rows("a", 1, 100) + rows("a", 100, 1, "other")) == 3
    assert independent_images([]) == 0


def test_more_images_show_smaller_differences():
    found = [
        smallest_differences(rows("a", number) + rows("b", number), ["a", "b"])
        for number in (100, 300, 2000)
    ]
    for name in ("accuracy", "balanced_accuracy", "sensitivity", "specificity"):
        values = [entry[name] for entry in found]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 3
    # many images: the textbook's formula, with the variance of two independent shares
    wanted = found[2]["accuracy"]
    better = WEAKER + wanted
    variance = (better * (1 - better) + WEAKER * (1 - WEAKER)) / 4000
    assert wanted == pytest.approx(3.08 * math.sqrt(variance), abs=0.0015)  # found in steps
    # of two equal classes, the variances of the recalls add up to that of the accuracy
    assert found[2]["balanced_accuracy"] == pytest.approx(wanted, abs=0.0015)


def test_the_rare_class_decides_sensitivity_and_balanced_accuracy():
    found = smallest_differences(rows("a", 900) + rows("b", 100), ["a", "b"])
    assert found["specificity"] < found["accuracy"] * 1.1 < found["balanced_accuracy"]
    assert found["balanced_accuracy"] < found["sensitivity"]
    assert set(smallest_differences(rows("a", 60) + rows("c", 60), ["a", "b", "c"])) == {
        "accuracy", "balanced_accuracy",
    }  # fmt: skip


def test_too_few_images_on_which_two_models_differ_show_no_difference():
    """The gate wants 7 such images; with 80 images, all right against 90%, there may be fewer."""
    assert power_of(1 - WEAKER, [80]) == pytest.approx(binom.sf(6, 80, 0.1), abs=0.02)
    assert power_of(1 - WEAKER, [80]) < POWER < power_of(1 - WEAKER, [100])


def test_what_cannot_be_shown_is_said():
    test = rows("a", 90) + rows("b", 15)
    found = smallest_differences(test, ["a", "b"])
    assert found["sensitivity"] is None
    assert power_of(1 - WEAKER, [15]) < POWER
    text = describe_power(len(test), 105, found)
    assert "sensitivity none: not even 100% against 90%." in text.replace(", specificity", "")
    assert f"of at least {found['accuracy'] * 100:.1f} points in accuracy, " in text
    assert "independent ones" not in text
    few = smallest_differences(rows("a", 5, 4) + rows("b", 5, 4), ["a", "b"])
    assert set(few.values()) == {None}
    text = describe_power(40, 10, few)
    assert text.startswith(
        "What the 40 test images, which say as much as 10 independent ones, can show with 80% "
        "power, if the weaker of two models reaches 90% in every class and their errors are "
        "independent: no difference in accuracy, balanced_accuracy, "
    )


def test_a_decided_question_needs_no_images_and_a_lost_one_none_would_decide():
    assert images_needed(0.8, 0.7, 0.9, 0.5, 100) == 0
    assert images_needed(0.5, 0.4, 0.6, 0.5, 100) is None
    assert images_needed(0.4, 0.3, 0.6, 0.5, 100) is None
    assert images_needed(-0.01, -0.05, 0.03, 0, 100) is None
    assert images_needed(math.nan, 0.1, 0.2, 0, 100) is None
    assert images_needed(0.6, math.nan, math.nan, 0.5, 100) is None
    assert images_needed(0.1, 0.0, 0.2, 0.0, 100) >= 1  # the interval must be above the limit


def test_so_many_more_images_decide_in_four_of_five_cases():
    """An accuracy of 0.6 against chance: the interval is the value plus minus 1.96 errors."""
    images, value, limit = 60, 0.6, 0.5
    error = math.sqrt(value * (1 - value) / images)
    more = images_needed(value, value - 1.96 * error, value + 1.96 * error, limit, images)
    assert more is not None
    total = images + more
    shares = np.random.default_rng(0).binomial(total, value, 20_000) / total
    low = shares - 1.96 * np.sqrt(shares * (1 - shares) / total)
    # steps of one image make the share uneven: one image is 3 points of power here
    assert np.mean(low > limit) == pytest.approx(POWER, abs=0.03)
    # a lower half that is wider than the upper one counts
    assert images_needed(0.9, 0.7, 0.95, 0.75, 50) == images_needed(0.9, 0.7, 1.1, 0.75, 50)
