import numpy as np
import pytest

from image_classifier.classifier import apply_temperature
from image_classifier.config import compose
from image_classifier.evaluation import threshold as thresholds
from image_classifier.evaluation.metrics import cross_entropy

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
POSITIVE = np.array([0.1, 0.2, 0.3, 0.7, 0.25, 0.6, 0.8, 0.9])
PROBABILITIES = np.stack([1 - POSITIVE, POSITIVE], axis=1)


def choose(*overrides: str) -> tuple[float, float]:
    evaluation = compose.config_of(*overrides).evaluation
    return thresholds.choose(evaluation, LABELS, PROBABILITIES)


def test_youden_chooses_the_highest_sensitivity_plus_specificity():
    threshold, temperature = choose()
    assert threshold == 0.5  # equal to every threshold between 0.3 and 0.6
    assert temperature == 1
    sums = [
        np.mean(POSITIVE[LABELS == 1] >= t) + np.mean(POSITIVE[LABELS == 0] < t)
        for t in np.linspace(0, 1, 1001)
    ]
    assert 1 + thresholds.youden(LABELS, threshold <= POSITIVE) == pytest.approx(max(sums))


def test_youden_leaves_one_half_for_a_better_threshold():
    threshold = thresholds.best_youden(LABELS, POSITIVE / 2)
    assert threshold == pytest.approx((0.35 + 0.4) / 2)


def test_a_target_sensitivity_gives_the_highest_threshold_that_reaches_it():
    threshold, _ = choose("evaluation.threshold=sensitivity", "evaluation.target_sensitivity=1")
    assert threshold == pytest.approx((0.2 + 0.25) / 2)
    threshold, _ = choose("evaluation.threshold=sensitivity", "evaluation.target_sensitivity=0.5")
    assert threshold == pytest.approx((0.7 + 0.8) / 2)


def test_a_number_is_the_threshold():
    assert choose("evaluation.threshold=0.123")[0] == 0.123


def test_temperature_lowers_the_loss_of_overconfident_probabilities():
    sharp = apply_temperature(PROBABILITIES, 0.2)
    temperature = thresholds.best_temperature(LABELS, sharp)
    assert temperature > 1
    best = cross_entropy(LABELS, apply_temperature(sharp, temperature))
    assert best < cross_entropy(LABELS, sharp)
    assert best <= cross_entropy(LABELS, apply_temperature(sharp, temperature * 1.1))
    assert best <= cross_entropy(LABELS, apply_temperature(sharp, temperature / 1.1))
    assert choose("evaluation.calibration=temperature")[1] != 1


def test_temperature_keeps_the_order_and_the_sum_of_one():
    hot = apply_temperature(PROBABILITIES, 3.0)
    assert (np.argsort(hot[:, 1]) == np.argsort(POSITIVE)).all()
    assert np.allclose(hot.sum(axis=1), 1)
    logit = np.log(POSITIVE / (1 - POSITIVE))
    assert np.allclose(hot[:, 1], 1 / (1 + np.exp(-logit / 3)))
