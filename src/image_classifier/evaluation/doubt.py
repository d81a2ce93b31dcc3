"""When a model is in doubt: plausible classes, and images unlike the training images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binomtest

from image_classifier import known_images
from image_classifier.data.labels import UNKNOWN
from image_classifier.errors import InputError
from image_classifier.evaluation.bootstrap import share_interval
from image_classifier.evaluation.metrics import Floats, Integers
from image_classifier.evaluation.predictions import CHUNK, Predictions
from image_classifier.known_images import KnownImages, Measurements

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.config.schema import Config
    from image_classifier.data.dataset import PreparedDataset
    from image_classifier.data.manifest import ImageRow


def plausible_limit(
    labels: Integers, probabilities: Floats, coverage: float, clusters: Sequence[str]
) -> float:
    """Return how probable a class must be to be plausible.

    With n independent validation images, it is the k-th smallest probability of a true class among
    them, k = floor((n + 1) (1 - coverage)). With clusters, such as patients, each cluster counts
    once. With too few clusters, k is 0: then every class is plausible.

    The true class of a new image, of a new cluster, is then plausible with a probability of at
    least `coverage`. This probability is over the new image and over the validation images: a
    mean. The share that one model reaches differs; see `coverage_range`. A class alone, or images
    with other shares of the classes, may have less. The probability assumes that nothing else was
    chosen on the validation images; epoch and temperature are, so it may be a little lower. The
    share of test images shows what it is.

    Source: Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error
    levels, JASA 2019; with clusters: Lee, Barber and Willett, Distribution-free inference with
    hierarchical data, 2023 (HCP).

    Args:
        labels: int array of shape (images,): the true classes of validation images.
        probabilities: float array of shape (images, classes), values 0 to 1.
        coverage: 0 to 1.
        clusters: The cluster of each image; images of one cluster are not independent.
    """
    of_truth = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(of_truth)
    _, numbers, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    weights = 1 / sizes[numbers][order]
    # clusters with a less probable true class, and the new one
    below = np.cumsum(weights) - weights + 1
    # 1e-9: (n + 1) (1 - 0.95) is not exactly 2 for n = 39
    rank = int(np.sum(below <= (len(sizes) + 1) * (1 - coverage) + 1e-9))
    return float(of_truth[order][rank - 1]) if rank else 0.0


def coverage_range(clusters: int, coverage: float) -> tuple[float, float]:
    """Return between which shares 95% of all models lie whose limit comes from so many clusters.

    The share of new images whose true class has a probability of at least `plausible_limit` follows
    a beta distribution, if each cluster is one image; with clusters it is an approximation. More
    classes are plausible (`Classifier.plausible`), so the share may be above the range.

    Source: Vovk, Conditional validity of inductive conformal predictors, 2012.

    Returns:
        Both ends, 0 to 1; 1 and 1 where every class is plausible.
    """
    rank = int(np.floor((clusters + 1) * (1 - coverage) + 1e-9))
    if not rank:
        return 1.0, 1.0
    low, high = beta.ppf([0.025, 0.975], clusters + 1 - rank, rank)
    return float(low), float(high)


def check_unknown(classes: Sequence[str], config: "Config") -> None:
    """Raise an InputError if `unknown` would be both a class and the answer `unknown`."""
    if config.evaluation.unknown and UNKNOWN in classes:
        raise InputError(
            f"A class is called {UNKNOWN}, as the answer for images in doubt: rename the class, or "
            f"set evaluation.unknown=[]."
        )


def know_images(
    config: "Config",
    dataset: "PreparedDataset",
    classifier: "Classifier",
    validation: Predictions,
    test: Predictions,
    inherited: Sequence["ImageRow"] = (),
) -> KnownImages:
    """Return what a model knows about the images it was made with; see `KnownImages`.

    Args:
        config: Says whether digests are stored.
        dataset: The prepared images.
        classifier: The model.
        validation: Its predictions for the validation images.
        test: Its predictions for the test images.
        inherited: The images of the trainings whose weights were the first ones of this model.
    """
    rows = known_images.sample_of(dataset.indices("train"))
    train = known_images.join(
        [classifier.outputs(dataset.images[part]).measurements for part in _chunks(rows)]
    )
    parts = [_measurements(predictions) for predictions in (validation, test)]
    both = known_images.join(parts)
    sample = both.take(known_images.sample_of(np.arange(len(both))))
    digests, hashes = frozenset[str](), tuple[str, ...]()
    if config.evaluation.remember_images:
        everything = replace(dataset, rows=[*dataset.rows, *inherited])
        digests, hashes = known_images.identities(everything)
    distance = config.split.duplicate_distance
    return known_images.know(train, parts[0], sample, digests, hashes, distance)


def _measurements(predictions: Predictions) -> Measurements:
    found = predictions.features, predictions.probabilities, predictions.pixels
    return Measurements(*(np.asarray(values, np.float32) for values in found))


def _chunks(rows: Integers) -> list[Integers]:
    """Return the rows in parts, so that memory does not grow with their number."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def measure_doubt(
    classifier: "Classifier", known: KnownImages, validation: Predictions, test: Predictions
) -> dict[str, Any]:
    """Return, ready for JSON, how well doubt works on the test images.

    Each share has `value`, `low` and `high`: a 95% interval; see `share_interval`.

    Args:
        classifier: The model.
        known: What it knows about its images.
        validation: The predictions for the validation images.
        test: The predictions for the test images.

    Returns:
        `coverage`: the share that was asked for. `validation_clusters`: how many independent
        images decided it. `range`: see `coverage_range`. `covered`: the share of test images whose
        true class is plausible; each cluster counts once, as in the promise. `covered_by_class`:
        the same for each class. `low_classes`: those clearly below `coverage`. `sizes`: how many
        images have 0, 1, 2, … plausible classes. `unusual`: the share from `unusual_percentile`
        on. `unusual_range`: what it may be; see `coverage_range`. `unknown`: when the settings
        want it, the `share` of these answers, and the `accuracy` of the others; else None.
    """
    metadata, clusters = classifier.metadata, np.array(test.clusters)
    plausible = classifier.plausible(np.asarray(test.probabilities, np.float32))
    count = plausible.sum(axis=1)
    covered = plausible[np.arange(len(test.labels)), test.labels]
    measured = _measurements(test)
    percentiles = known.percentiles(measured.features, measured.pixels)
    unusual = percentiles >= metadata.unusual_percentile
    by_class = {
        name: share_interval(covered[chosen], clusters[chosen].tolist(), equally=True)
        | {"clusters": len(set(clusters[chosen]))}
        for index, name in enumerate(metadata.classes)
        if np.any(chosen := test.labels == index)
    }
    independent = len(set(validation.clusters))
    low, high = coverage_range(independent, metadata.coverage or 0.0)
    usual_low, usual_high = coverage_range(independent, metadata.unusual_percentile / 100)
    return {
        "coverage": metadata.coverage,
        "plausible_limit": metadata.plausible_limit,
        "validation_images": len(known.usual),
        "validation_clusters": independent,
        "range": {"low": low, "high": high},
        "covered": share_interval(covered, test.clusters, equally=True),
        "covered_by_class": by_class,
        "low_classes": low_classes(by_class, metadata.coverage or 0.0),
        "sizes": np.bincount(count, minlength=len(metadata.classes) + 1).tolist(),
        "unusual_percentile": metadata.unusual_percentile,
        "unusual_range": {"low": 1 - usual_high, "high": 1 - usual_low},
        "unusual": share_interval(unusual, test.clusters),
        "unknown": measure_unknown(classifier, plausible, unusual, test),
    }


def low_classes(by_class: dict[str, dict[str, Any]], coverage: float) -> list[str]:
    """Return the classes whose share is clearly below the coverage.

    By a one-sided binomial test, in which a cluster counts once, at a level of 5% for all classes
    together (Bonferroni).

    Args:
        by_class: For each class `value`, the share, and `clusters`, how many there are.
        coverage: The share that was asked for, 0 to 1.
    """
    return [
        name
        for name, entry in by_class.items()
        if binomtest(
            round(entry["value"] * entry["clusters"]), entry["clusters"], coverage, "less"
        ).pvalue
        < 0.05 / len(by_class)
    ]


def measure_unknown(
    classifier: "Classifier",
    plausible: npt.NDArray[np.bool_],
    unusual: npt.NDArray[np.bool_],
    test: Predictions,
) -> dict[str, Any] | None:
    """Return the share of `unknown` answers, and the accuracy of the others; see `measure_doubt`.

    Args:
        classifier: The model.
        plausible: bool array of shape (images, classes).
        unusual: bool array of shape (images,).
        test: The predictions for the test images.
    """
    when = classifier.metadata.unknown
    if not when:
        return None
    unknown = np.zeros(len(unusual), bool)
    if "ambiguous" in when:
        unknown |= plausible.sum(axis=1) > 1
    if "unusual" in when:
        unknown |= unusual
    right, clusters = test.predicted == test.labels, np.array(test.clusters)
    return {
        "when": list(when),
        "images": int(unknown.sum()),
        "share": share_interval(unknown, test.clusters),
        "accuracy": None
        if unknown.all()
        else share_interval(right[~unknown], clusters[~unknown].tolist()),
    }
