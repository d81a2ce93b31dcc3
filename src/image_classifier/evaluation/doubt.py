"""When a model is in doubt: plausible classes, and images unlike the training images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from image_classifier import known_images
from image_classifier.evaluation.bootstrap import share_interval
from image_classifier.evaluation.metrics import Floats, Integers
from image_classifier.evaluation.predictions import Predictions
from image_classifier.known_images import KnownImages, Measurements

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.config.schema import Config
    from image_classifier.data.dataset import PreparedDataset


def plausible_limit(labels: Integers, probabilities: Floats, coverage: float) -> float:
    """Return how probable a class must be to be plausible.

    It is the k-th smallest probability that a validation image gives its true class. With n images
    and k = floor((n + 1) (1 - coverage)), a new image from the same source has its true class among
    the plausible ones with a probability of at least `coverage`. With too few images, k is 0: then
    every class is plausible.

    Source: Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error
    levels, JASA 2019; Angelopoulos and Bates, A gentle introduction to conformal prediction, 2021.

    Args:
        labels: int array of shape (images,): the true classes of validation images.
        probabilities: float array of shape (images, classes), values 0 to 1.
        coverage: 0 to 1.
    """
    of_truth = np.sort(probabilities[np.arange(len(labels)), labels])
    # 1e-9: (n + 1) (1 - 0.95) is 2.0000000000000018 for n = 39
    rank = int(np.floor((len(labels) + 1) * (1 - coverage) + 1e-9))
    return float(of_truth[rank - 1]) if rank else 0.0


def know_images(
    config: "Config",
    dataset: "PreparedDataset",
    classifier: "Classifier",
    validation: Predictions,
    test: Predictions,
) -> KnownImages:
    """Return what a model knows about the images it was made with; see `KnownImages`.

    Args:
        config: Says whether digests are stored.
        dataset: The prepared images.
        classifier: The model.
        validation: Its predictions for the validation images.
        test: Its predictions for the test images.
    """
    rows = known_images.sample_of(dataset.indices("train"))
    train = classifier.outputs(dataset.images[rows]).measurements
    parts = [_measurements(predictions) for predictions in (validation, test)]
    both = known_images.join(parts)
    sample = both.take(known_images.sample_of(np.arange(len(both))))
    digests, hashes = frozenset[str](), tuple[str, ...]()
    if config.evaluation.remember_images:
        digests, hashes = known_images.identities(dataset)
    distance = config.split.duplicate_distance
    return known_images.know(train, parts[0], sample, digests, hashes, distance)


def _measurements(predictions: Predictions) -> Measurements:
    found = predictions.features, predictions.probabilities, predictions.pixels
    return Measurements(*(np.asarray(values, np.float32) for values in found))


def measure_doubt(
    classifier: "Classifier", known: KnownImages, test: Predictions
) -> dict[str, Any]:
    """Return, ready for JSON, how well doubt works on the test images.

    Args:
        classifier: The model.
        known: What it knows about its images.
        test: The predictions for the test images.

    Returns:
        `coverage`: the share that was asked for. `covered`: value and 95% interval of the share of
        test images whose true class is plausible. `covered_by_class`: the same for each class.
        `sizes`: how many images have 0, 1, 2, … plausible classes. `unusual`: value and interval
        of the share from `unusual_percentile` on. `unknown`: the share of answers that are
        unknown, if the settings want them, and the `accuracy` of the others; else None.
    """
    metadata = classifier.metadata
    plausible = test.probabilities >= metadata.plausible_limit
    covered = plausible[np.arange(len(test.labels)), test.labels]
    measured = _measurements(test)
    percentiles = known.percentiles(measured.features, measured.pixels)
    unusual = percentiles >= metadata.unusual_percentile
    sizes = np.bincount(plausible.sum(axis=1), minlength=len(metadata.classes) + 1)
    right = test.predicted == test.labels
    sure = plausible[np.arange(len(test.labels)), test.predicted] & (plausible.sum(axis=1) == 1)
    is_unknown = np.zeros(len(right), bool)
    if "ambiguous" in metadata.unknown:
        is_unknown |= ~sure
    if "unusual" in metadata.unknown:
        is_unknown |= unusual
    return {
        "coverage": metadata.coverage,
        "plausible_limit": metadata.plausible_limit,
        "validation_images": len(known.usual),
        "covered": share_interval(covered, test.clusters),
        "covered_by_class": {
            name: share_interval(covered[chosen], np.array(test.clusters)[chosen].tolist())
            for index, name in enumerate(metadata.classes)
            if np.any(chosen := test.labels == index)
        },
        "sizes": sizes.tolist(),
        "unusual_percentile": metadata.unusual_percentile,
        "unusual": share_interval(unusual, test.clusters),
        "unknown": {
            "when": list(metadata.unknown),
            "images": int(is_unknown.sum()),
            "accuracy": float(right[~is_unknown].mean()) if not is_unknown.all() else None,
        }
        if metadata.unknown
        else None,
    }
