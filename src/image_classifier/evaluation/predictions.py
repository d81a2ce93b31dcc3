"""A classifier's predictions for the images of one split."""

import csv
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from image_classifier.evaluation.metrics import classification_metrics
from image_classifier.project.files import new_file

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.data.dataset import PreparedDataset
    from image_classifier.data.labels import SplitName

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]

CHUNK = 256  # images at a time, so that memory does not grow with the dataset


@dataclass(frozen=True)
class Predictions:
    """The predictions for the images of one split.

    Attributes:
        rows: int64 array of shape (images,): row numbers in the manifest.
        labels: int64 array of shape (images,): the true classes.
        probabilities: float array of shape (images, classes), values 0 to 1.
        predicted: int64 array of shape (images,): the predicted classes.
        clusters: One text for each image: images with the same text are not independent.
        features: float array of shape (images, features): what the model's last layer sees.
        pixels: float array of shape (images, 3): see `Measurements.pixels`.
    """

    rows: Integers
    labels: Integers
    probabilities: Floats
    predicted: Integers
    clusters: list[str] = field(default_factory=list)
    features: Floats = field(default_factory=lambda: np.empty((0, 0)))
    pixels: Floats = field(default_factory=lambda: np.empty((0, 3)))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics of all images; see `classification_metrics`."""
        return classification_metrics(self.labels, self.probabilities, self.predicted)


def predict_split(
    classifier: "Classifier", dataset: "PreparedDataset", split: "SplitName"
) -> Predictions:
    """Return a classifier's predictions for the images of one split."""
    rows = dataset.indices(split)
    parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    outputs = [classifier.outputs(dataset.images[part]) for part in parts]
    probabilities = np.concatenate([part.probabilities for part in outputs])
    return Predictions(
        rows,
        dataset.labels[rows],
        probabilities,
        classifier.decide(probabilities),
        [dataset.rows[row].cluster for row in rows],
        np.concatenate([part.features for part in outputs]),
        np.concatenate([part.pixels for part in outputs]),
    )


def predictions_digest(predictions: Predictions) -> str:
    """Return 16 hexadecimal digits: the same for the same predictions of the same images.

    Probabilities count with four digits, because the last ones differ between machines.
    """
    digest = hashlib.sha256(np.round(predictions.probabilities, 4).astype(np.float32).tobytes())
    digest.update(predictions.predicted.tobytes())
    return digest.hexdigest()[:16]


def write_predictions(dataset: "PreparedDataset", predictions: Predictions, path: Path) -> None:
    """Write a CSV file with one row for each image: path, classes and probabilities."""
    with new_file(path).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = ["path", "actual", "predicted"]
        writer.writerow([*header, *(f"p_{name}" for name in dataset.classes)])
        for index, row in enumerate(predictions.rows):
            image, predicted = dataset.rows[row], dataset.classes[predictions.predicted[index]]
            values = map(float, predictions.probabilities[index])
            writer.writerow([image.path, image.label, predicted, *values])
