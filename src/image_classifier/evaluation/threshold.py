"""How probabilities become predictions: temperature and threshold, chosen on validation images."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from image_classifier.config.schema import Evaluation
from image_classifier.evaluation.doubt import plausible_limit
from image_classifier.evaluation.metrics import Floats, Integers, cross_entropy
from image_classifier.evaluation.predictions import Predictions, predict_split

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.data.dataset import PreparedDataset


def choose_threshold(
    classifier: "Classifier", dataset: "PreparedDataset", evaluation: Evaluation
) -> tuple["Classifier", Predictions]:
    """Choose temperature and threshold on the validation images.

    Returns:
        The same model with both, and its predictions for the validation images. They are no
        independent measure of the model: the threshold was chosen on these images.
    """
    from image_classifier.classifier import apply_temperature  # imports TensorFlow

    flip = evaluation.test_time_augmentation == "flip"
    plain = classifier.with_metadata(replace(classifier.metadata, temperature=1.0, flip=flip))
    validation = predict_split(plain, dataset, "validation")
    threshold, temperature = choose(evaluation, validation.labels, validation.probabilities)
    probabilities = apply_temperature(np.asarray(validation.probabilities, np.float32), temperature)
    limit = plausible_limit(
        validation.labels, probabilities, evaluation.coverage, validation.clusters
    )
    chosen = classifier.with_metadata(
        replace(
            plain.metadata,
            threshold=threshold,
            temperature=temperature,
            coverage=evaluation.coverage,
            plausible_limit=limit,
            unknown=tuple(evaluation.unknown),
            unusual_percentile=evaluation.unusual_percentile,
        )
    )
    predicted = chosen.decide(probabilities)
    return chosen, replace(validation, probabilities=probabilities, predicted=predicted)


def choose(
    evaluation: Evaluation, labels: Integers, probabilities: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """Return threshold and temperature for a model's validation images.

    Args:
        evaluation: How they are chosen.
        labels: int array of shape (images,): the true classes.
        probabilities: float32 array of shape (images, classes), at temperature 1.

    Returns:
        The threshold, 0 to 1 (0.5 with more than two classes, which do not use it), and the
        temperature, 0.05 to 20.
    """
    from image_classifier.classifier import apply_temperature  # imports TensorFlow

    temperature = 1.0
    if evaluation.calibration == "temperature":
        temperature = best_temperature(labels, probabilities)
    if probabilities.shape[1] > 2:
        return 0.5, temperature
    positive = apply_temperature(probabilities, temperature)[:, 1].astype(np.float64)
    if evaluation.threshold == "youden":
        return best_youden(labels, positive), temperature
    if evaluation.threshold == "sensitivity":
        target = evaluation.target_sensitivity
        return threshold_for_sensitivity(labels, positive, target), temperature
    return evaluation.threshold, temperature


def best_temperature(labels: Integers, probabilities: npt.NDArray[np.float32]) -> float:
    """Return the temperature with the lowest cross-entropy; see `apply_temperature`."""
    from image_classifier.classifier import apply_temperature  # imports TensorFlow

    found = minimize_scalar(
        lambda power: cross_entropy(labels, apply_temperature(probabilities, float(np.exp(power)))),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


def best_youden(labels: Integers, positive: Floats) -> float:
    """Return the threshold with the highest sensitivity + specificity.

    Of several equal thresholds, it is the one nearest to 0.5.

    Args:
        labels: int array of shape (images,), 1 for positive images.
        positive: float array of shape (images,): probability of the positive class.

    Source: Youden, Index for rating diagnostic tests, Cancer 3, 1950.
    """
    thresholds = candidate_thresholds(positive)
    index = np.array([youden(labels, positive >= threshold) for threshold in thresholds])
    best = thresholds[np.isclose(index, index.max())]
    return float(best[np.argmin(np.abs(best - 0.5))])


def youden(labels: Integers, predicted: npt.NDArray[np.bool_]) -> float:
    """Return sensitivity + specificity - 1, from -1 to 1."""
    return float(np.mean(predicted[labels == 1]) - np.mean(predicted[labels == 0]))


def threshold_for_sensitivity(labels: Integers, positive: Floats, sensitivity: float) -> float:
    """Return the highest threshold that reaches a sensitivity; arguments as `best_youden`."""
    thresholds = candidate_thresholds(positive)
    reached = [np.mean(positive[labels == 1] >= limit) >= sensitivity for limit in thresholds]
    return float(thresholds[reached].max())


def candidate_thresholds(positive: Floats) -> Floats:
    """Return all thresholds that separate the probabilities differently, in ascending order.

    They lie half-way between neighbouring probabilities. 0 and 1 are among them, and 0.5, which
    stays unless another threshold is better.
    """
    values = np.unique(positive)
    return np.unique(np.concatenate([[0.0, 0.5, 1.0], (values[1:] + values[:-1]) / 2]))
