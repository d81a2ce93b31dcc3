"""Measures a model on the external sets: images from other sources, never trained on."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Pixels, decode
from image_classifier.data.labels import read_labels
from image_classifier.data.near_duplicates import (
    CLOSE,
    CLOSE_VIEW,
    component_ids,
    find_pairs,
    fingerprint,
)
from image_classifier.data.unreadable import UnreadableImage
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
    distance: int | None,
    dataset: PreparedDataset,
    classifier: "Classifier",
    test: Predictions,
) -> dict[str, Any]:
    """Return the result for one set; see `measure_all`.

    Raises:
        InputError: no image is left to measure.
    """
    labelled = read_labels(paths.EXTERNAL / f"{name}.csv", "external")
    found = {paths.EXTERNAL / name / image.path: image.label for image in labelled}
    readable, duplicates = without_duplicates(list(found), dataset, distance)
    if not readable:
        raise InputError(
            f"external.{name} has no image to measure on: {duplicates} of its {len(found)} files "
            f"are also in the dataset, the others are not readable. Use other images, or remove "
            f"the set from `external`."
        )
    label_of = {path: dataset.classes.index(found[path]) for path in readable}
    classified = [
        (label_of[path], output.probabilities)
        for path, output, _ in classifier.outputs_of_files(list(label_of))
        if not isinstance(output, UnreadableImage)
    ]
    labels = np.array([label for label, _ in classified])
    right = classifier.decide(np.concatenate([output for _, output in classified])) == labels
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
    files: Sequence[Path], dataset: PreparedDataset, distance: int | None
) -> tuple[list[Path], int]:
    """Return the readable images that the dataset does not have, and the number of the others."""
    with ThreadPoolExecutor() as pool:
        results = zip(files, pool.map(fingerprint, files), strict=True)
        prints = {path: file for path, file in results if not isinstance(file, UnreadableImage)}
    readable, known = list(prints), len(dataset.rows)

    def close_view(index: int) -> Pixels:
        if index >= known:
            return decode(readable[index - known], CLOSE_VIEW)
        image = Image.fromarray(np.squeeze(dataset.images[index]))
        small = image.convert("RGB").resize((CLOSE, CLOSE), Image.Resampling.BILINEAR)
        return np.asarray(small, np.uint8)

    pairs, _ = find_pairs(
        [row.sha256 for row in dataset.rows] + [file.sha256 for file in prints.values()],
        [row.perceptual_hash for row in dataset.rows]
        + [file.perceptual_hash for file in prints.values()],
        [""] * (known + len(readable)),
        distance,
        close_view,
    )
    numbers = component_ids(pairs, known + len(readable))
    of_dataset = set(numbers[:known].tolist())
    new = [
        path for path, number in zip(readable, numbers[known:], strict=True)
        if int(number) not in of_dataset
    ]  # fmt: skip
    return new, len(readable) - len(new)
