"""The prediction for one image, as `predict` prints it and the server sends it."""

from typing import TypedDict

from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map

from image_classifier.classifier import Classifier, Probabilities


class Prediction(TypedDict):
    """The predicted class, its probability, and the probability of every class."""

    label: str
    probability: float
    probabilities: dict[str, float]


SCHEMA = Schema(
    [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
    ]
)


def predictions(
    classifier: Classifier, probabilities: Probabilities, threshold: float | None = None
) -> list[Prediction]:
    """Return the predictions for rows of `Classifier.probabilities`, ready for JSON.

    Args:
        classifier: The classifier that gave the probabilities.
        probabilities: float32 array of shape (images, classes).
        threshold: Instead of the classifier's own, 0 to 1.
    """
    names = classifier.metadata.classes
    return [
        Prediction(
            label=names[choice],
            probability=float(row[choice]),
            probabilities=dict(zip(names, map(float, row), strict=True)),
        )
        for choice, row in zip(
            classifier.decide(probabilities, threshold), probabilities, strict=True
        )
    ]
