"""The prediction for one image, as `predict` prints it and the server sends it."""

from collections.abc import Sequence
from typing import NotRequired  # of the standard library: from Python 3.12

from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map
from typing_extensions import TypedDict

from image_classifier.classifier import Classifier, Outputs
from image_classifier.data.labels import UNKNOWN


class Prediction(TypedDict):
    """What a model says about an image.

    Attributes:
        label: The predicted class; `unknown` where the model's settings want it.
        probability: The probability of the class that is predicted without `unknown`, 0 to 1.
        probabilities: The probability of every class.
        plausible: The plausible classes, the predicted one among them; see `Metadata.coverage`.
            None in models that do not know them.
        unusual: How unlike the training images it is, 0 to 100; see `KnownImages.percentiles`.
            None for a model that was not evaluated.
        seen: Whether the model has seen it: `exactly`, `near copy` or `no`; only where the
            model's settings want it.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    plausible: list[str] | None
    unusual: float | None
    seen: NotRequired[str]


def schema(remembers: bool) -> Schema:
    """Return the names and types of a prediction's fields, for MLflow.

    Args:
        remembers: Whether the model answers `seen`. Spark demands every column of the schema, also
            an optional one.
    """
    fields = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(Array(DataType.string), "plausible", required=False),
        ColSpec(DataType.double, "unusual", required=False),
    ]
    return Schema([*fields, ColSpec(DataType.string, "seen")] if remembers else fields)


def predictions(
    classifier: Classifier,
    outputs: Outputs,
    threshold: float | None = None,
    seen: Sequence[str] | None = None,
) -> list[Prediction]:
    """Return the predictions for what a classifier says about images, ready for JSON.

    Args:
        classifier: The classifier that gave the outputs.
        outputs: See `Classifier.outputs`.
        threshold: Instead of the classifier's own, 0 to 1.
        seen: See `Prediction.seen`; None where it is not wanted.
    """
    metadata, known = classifier.metadata, classifier.known
    names = metadata.classes
    choices = classifier.decide(outputs.probabilities, threshold)
    percentiles = (
        known.percentiles(outputs.features, outputs.pixels).tolist()
        if known
        else [None] * len(choices)
    )
    plausible = classifier.plausible(outputs.probabilities, threshold)
    found = []
    for index, (choice, row) in enumerate(zip(choices, outputs.probabilities, strict=True)):
        prediction = Prediction(
            label=names[choice],
            probability=float(row[choice]),
            probabilities=dict(zip(names, map(float, row), strict=True)),
            plausible=None
            if metadata.coverage is None
            else [name for name, chosen in zip(names, plausible[index], strict=True) if chosen],
            unusual=percentiles[index],
        )
        if is_unknown(classifier, prediction):
            prediction["label"] = UNKNOWN
        if seen is not None:
            prediction["seen"] = seen[index]
        found.append(prediction)
    return found


def is_unknown(classifier: Classifier, prediction: Prediction) -> bool:
    """Return whether the model's settings want the answer `unknown` for a prediction."""
    metadata, unusual = classifier.metadata, prediction["unusual"]
    ambiguous = len(prediction["plausible"] or ()) > 1
    return ("ambiguous" in metadata.unknown and ambiguous) or (
        "unusual" in metadata.unknown
        and unusual is not None
        and unusual >= metadata.unusual_percentile
    )
