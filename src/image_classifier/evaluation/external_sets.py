"""Measures a model on the external sets: images from other sources, never trained on."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.folders import FoundImage, find_images
from image_classifier.data.images import UnreadableImage
from image_classifier.data.near_duplicates import find_pairs, fingerprint
from image_classifier.errors import InputError
from image_classifier.evaluation.predictions import Predictions
from image_classifier.project import paths
from image_classifier.project.records import read_record

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier


def check(config: Config) -> None:
    """Check that the stage external ran with these settings.

    Raises:
        InputError: it did not.
    """
    record = read_record(paths.EXTERNAL_RECORD, "external", sets=dict[str, Any])
    if set(record["sets"]) != set(config.external):
        raise InputError(
            f"{paths.EXTERNAL} contains [{', '.join(record['sets'])}], but `external` in "
            f"params.yaml lists [{', '.join(config.external)}]. Run `dvc repro external`."
        )


def measure_all(
    config: Config, dataset: PreparedDataset, classifier: "Classifier", test: Predictions
) -> dict[str, dict[str, Any]]:
    """Return for each external set the accuracy on each class.

    Skips duplicates of the dataset's own images, and files that are not images.

    Returns:
        For each set: `images`, `accuracy`, `duplicates`, `unreadable`, and `classes`. The last has
        for each class its `images`, its `accuracy`, and the `drop` from its accuracy on the test
        images.
    """
    return {
        name: measure_set(name, config.split.duplicate_distance, dataset, classifier, test)
        for name in config.external
    }


def measure_set(
    name: str,
    distance: int,
    dataset: PreparedDataset,
    classifier: "Classifier",
    test: Predictions,
) -> dict[str, Any]:
    """Return the result for one set; see `measure_all`.

    Raises:
        InputError: no image is left to measure.
    """
    found, _ = find_images(paths.EXTERNAL / name, minimum_classes=1)
    readable, duplicates = without_duplicates(found, dataset, distance)
    if not readable:
        raise InputError(f"external.{name}: every readable image is also in the dataset.")
    label_of = {image.path: dataset.classes.index(image.label) for image in readable}
    classified = [
        (label_of[path], output)
        for path, output in classifier.probabilities_of_files(list(label_of))
        if not isinstance(output, UnreadableImage)
    ]
    labels = np.array([label for label, _ in classified])
    right = classifier.decide(np.stack([output for _, output in classified])) == labels
    on_test = test.predicted == test.labels
    classes = {
        label: {
            "images": int(np.sum(labels == index)),
            "accuracy": float(right[labels == index].mean()),
            "drop": float(on_test[test.labels == index].mean() - right[labels == index].mean()),
        }
        for index, label in enumerate(dataset.classes)
        if np.any(labels == index)
    }
    return {
        "images": len(classified),
        "accuracy": float(right.mean()),
        "duplicates": duplicates,
        "unreadable": len(found) - duplicates - len(classified),
        "classes": classes,
    }


def without_duplicates(
    found: list[FoundImage], dataset: PreparedDataset, distance: int
) -> tuple[list[FoundImage], int]:
    """Return the readable images that the dataset does not have, and the number of the others."""
    with ThreadPoolExecutor() as pool:
        results = pool.map(fingerprint, [image.path for image in found])
        readable, files = [], []
        for image, result in zip(found, results, strict=True):
            if not isinstance(result, UnreadableImage):
                readable.append(image)
                files.append(result)
    known = len(dataset.rows)
    pairs = find_pairs(
        [row.sha256 for row in dataset.rows] + [file.sha256 for file in files],
        [row.perceptual_hash for row in dataset.rows] + [file.perceptual_hash for file in files],
        [""] * (known + len(readable)),
        distance,
    )
    duplicates = {pair.second - known for pair in pairs if pair.first < known <= pair.second}
    return [image for i, image in enumerate(readable) if i not in duplicates], len(duplicates)
