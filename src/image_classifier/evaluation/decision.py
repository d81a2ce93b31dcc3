"""How a model's probabilities become answers: temperature and threshold, from validation alone."""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from image_classifier.classifier import Classifier, Probabilities, scaled
from image_classifier.data.dataset import PreparedDataset
from image_classifier.evaluation.metrics import Floats, Integers, cross_entropy, measure
from image_classifier.schema import Evaluation


def with_decision(
    classifier: Classifier, dataset: PreparedDataset, evaluation: Evaluation
) -> Classifier:
    """Return the same model with the threshold and the temperature that `evaluation` asks for."""
    plain = classifier.with_settings(replace(classifier.settings, temperature=1.0))
    validation = measure(plain, dataset, "validation")
    threshold, temperature = choose(evaluation, validation.labels, validation.probabilities)
    return classifier.with_settings(
        replace(classifier.settings, threshold=threshold, temperature=temperature)
    )


def choose(
    evaluation: Evaluation, labels: Integers, probabilities: Probabilities
) -> tuple[float, float]:
    """Return threshold and temperature for a model, from its validation images.

    Args:
        evaluation: How they are chosen.
        labels: int array of shape (images,): the true classes.
        probabilities: float array of shape (images, classes), at temperature 1.

    Returns:
        The threshold, 0 to 1 (0.5 with more than two classes, which do not use it), and the
        temperature, 0.05 to 20.
    """
    temperature = 1.0
    if evaluation.calibration == "temperature":
        temperature = best_temperature(labels, probabilities)
    if probabilities.shape[1] > 2:
        return 0.5, temperature
    positive = scaled(probabilities, temperature)[:, 1].astype(np.float64)
    if evaluation.threshold == "youden":
        return best_youden(labels, positive), temperature
    if evaluation.threshold == "sensitivity":
        return reaching(labels, positive, evaluation.target_sensitivity), temperature
    return evaluation.threshold, temperature


def best_temperature(labels: Integers, probabilities: Probabilities) -> float:
    """Return the temperature with the lowest cross-entropy; see `classifier.scaled`."""
    found = minimize_scalar(
        lambda power: cross_entropy(labels, scaled(probabilities, float(np.exp(power)))),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


def best_youden(labels: Integers, positive: Floats) -> float:
    """Return the threshold with the highest sensitivity + specificity.

    Several can be as good: the one nearest to 0.5 is taken.

    Args:
        labels: int array of shape (images,), 1 where positive.
        positive: float array of shape (images,): probability of the positive class.

    Source: Youden, Index for rating diagnostic tests, Cancer 3, 1950.
    """
    limits = cuts(positive)
    index = np.array([youden(labels, positive >= limit) for limit in limits])
    best = limits[np.isclose(index, index.max())]
    return float(best[np.argmin(np.abs(best - 0.5))])


def youden(labels: Integers, predicted: Integers) -> float:
    """Return sensitivity + specificity - 1, from -1 to 1."""
    return float(np.mean(predicted[labels == 1]) - np.mean(predicted[labels == 0]))


def reaching(labels: Integers, positive: Floats, sensitivity: float) -> float:
    """Return the highest threshold at which sensitivity is reached, see `best_youden`."""
    limits = cuts(positive)
    enough = [np.mean(positive[labels == 1] >= limit) >= sensitivity for limit in limits]
    return float(limits[enough].max())


def cuts(positive: Floats) -> Floats:
    """Return the thresholds that divide probabilities in different ways, ascending.

    They lie half-way between neighbours, as far from either as can be; and 0 and 1 are among
    them, and 0.5, which is kept wherever nothing else is better.
    """
    values = np.unique(positive)
    return np.unique(np.concatenate([[0.0, 0.5, 1.0], (values[1:] + values[:-1]) / 2]))
