"""Measures a model on the external sets, which it never saw, beside the test images."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from image_classifier import paths
from image_classifier.data.copies import find_pairs, fingerprint
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.folders import FoundImage, find_images
from image_classifier.data.images import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.evaluation.metrics import Measured
from image_classifier.records import read_record
from image_classifier.schema import Config

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier


def check(config: Config) -> None:
    """See that the external stage ran with these settings.

    Raises:
        InputError: it did not.
    """
    record = read_record(paths.EXTERNAL_RECORD, "external", sets=dict[str, Any])
    if set(record["sets"]) != set(config.external):
        raise InputError(
            f"{paths.EXTERNAL} has the sets {', '.join(record['sets']) or 'none'}, the settings "
            f"{', '.join(config.external) or 'none'}: run `dvc repro external`."
        )


def measure_all(
    config: Config, dataset: PreparedDataset, classifier: "Classifier", test: Measured
) -> dict[str, dict[str, Any]]:
    """Return for each external set how many images of each class the model gets right.

    Copies of the dataset's own images are left out, and so are files that are no images.

    Returns:
        By name: `images`, `accuracy`, `copies_left_out`, `unreadable`, and for each class under
        `classes` its `images`, its `accuracy`, and the `drop` from the test images' accuracy.
    """
    return {
        name: measure(name, config.split.copy_distance, dataset, classifier, test)
        for name in config.external
    }


def measure(
    name: str,
    distance: int,
    dataset: PreparedDataset,
    classifier: "Classifier",
    test: Measured,
) -> dict[str, Any]:
    """Return the result of one set, see `measure_all`.

    Raises:
        InputError: nothing is left to measure.
    """
    found, _ = find_images(paths.EXTERNAL / name, minimum_classes=1)
    readable, copies = without_copies(found, dataset, distance)
    if not readable:
        raise InputError(f"external.{name}: no readable image that the dataset does not have.")
    label_of = {image.path: dataset.classes.index(image.label) for image in readable}
    answered = [
        (label_of[path], output)
        for path, output in classifier.probabilities_of_files(list(label_of))
        if not isinstance(output, UnreadableImage)
    ]
    labels = np.array([label for label, _ in answered])
    right = classifier.decide(np.stack([output for _, output in answered])) == labels
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
        "images": len(answered),
        "accuracy": float(right.mean()),
        "copies_left_out": copies,
        "unreadable": len(found) - copies - len(answered),
        "classes": classes,
    }


def without_copies(
    found: list[FoundImage], dataset: PreparedDataset, distance: int
) -> tuple[list[FoundImage], int]:
    """Return the readable images that are no copies of the dataset's, and how many copies are."""
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
    copies = {pair.second - known for pair in pairs if pair.first < known <= pair.second}
    return [image for i, image in enumerate(readable) if i not in copies], len(copies)
