"""The model as MLflow stores and serves it: one column `image`, an image file in base64.

MLflow stores this file as code ("models from code") and runs it when it loads the model, so
nothing is pickled.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image
from pydantic import ValidationError

from image_classifier.classifier import (
    METADATA_FILE,
    WEIGHTS,
    Classifier,
    Metadata,
    read_metadata,
)
from image_classifier.config.schema import PROBABILITY
from image_classifier.project import digests
from image_classifier.serving import base64_text
from image_classifier.serving.image_service import BadRequest, ImageService
from image_classifier.serving.prediction import Prediction, schema


def signature(metadata: Metadata, remembers: bool) -> ModelSignature:
    """Return what a request may contain, and what the answer contains; see `schema`.

    With two classes, the parameter `threshold` replaces the model's own for one request.
    """
    threshold = ParamSpec("threshold", DataType.double, default=metadata.threshold)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=schema(remembers),
        params=ParamSchema([threshold]) if len(metadata.classes) == 2 else None,
    )


class ServedClassifier(mlflow.pyfunc.PythonModel):
    """The classifier for `mlflow models serve`, and for MLflow's other ways to use a model."""

    def load_context(self, context: Any) -> None:
        """Load the classifier, and classify once so that the first request is not slow.

        Raises:
            MlflowException: the weights are not what was stored.
        """
        folder = Path(context.artifacts["classifier"])
        if digests.of_file(folder / WEIGHTS) != read_metadata(folder).weights_sha256:
            raise MlflowException.invalid_parameter_value(
                f"{folder / WEIGHTS} is damaged: {METADATA_FILE} beside it has another "
                f"digest. Restore it from a backup, or train the model again."
            )
        limits = json.loads(Path(context.artifacts["limits"]).read_text())
        self.service = ImageService(Classifier.load(folder), limits)
        content = io.BytesIO()
        Image.new("RGB", (8, 8)).save(content, "JPEG")
        text = base64.b64encode(content.getvalue()).decode()
        self.predict(context, pandas.DataFrame({"image": [text]}))

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: Any = None
    ) -> list[Prediction]:
        """Return label and probabilities for each row of the column `image`.

        Raises:
            MlflowException: (HTTP 400) there are too many images; an image is not base64, too
                large or unreadable; or the threshold is not a probability.
        """
        if model_input.empty:
            return []
        threshold = (params or {}).get("threshold")
        try:
            PROBABILITY.validate_python(0 if threshold is None else threshold)
        except ValidationError:
            raise refusal(f"threshold is {threshold}: send a probability from 0 to 1.") from None
        texts = list(model_input["image"])
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise refusal(f"image in row {row} is not a string: {base64_text.ADVICE}.")
        try:
            return self.service.classify(texts, threshold).predictions
        except BadRequest as error:
            raise refusal(str(error)) from None


def refusal(message: str) -> MlflowException:
    """Return the error that the scoring server answers with status 400 and this message."""
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(ServedClassifier())
