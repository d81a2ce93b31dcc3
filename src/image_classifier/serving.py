"""The model as MLflow stores and serves it: one column `image`, the base64 of an image file.

MLflow logs this file as code ("models from code"), so nothing is pickled, and runs it when it
loads the model.
"""

import base64
import binascii
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas
import pybase64
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Map
from PIL import Image

from image_classifier.classifier import Answer, Classifier, Settings
from image_classifier.images import Pixels, UnreadableImage


def signature(settings: Settings) -> ModelSignature:
    """Return what a request may hold, and what the answer holds.

    With two classes, the parameter `threshold` overrides the model's own for one request.
    """
    threshold = ParamSpec("threshold", DataType.double, default=settings.threshold)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Map(DataType.double), "probabilities"),
            ]
        ),
        params=ParamSchema([threshold]) if len(settings.classes) == 2 else None,
    )


class ServedClassifier(mlflow.pyfunc.PythonModel):
    """Decodes the images of a request side by side and classifies them in one call."""

    def load_context(self, context: Any) -> None:
        """Load the classifier, and answer once so that the first request is not the slow one."""
        self.classifier = Classifier.load(Path(context.artifacts["classifier"]))
        self.pool = ThreadPoolExecutor()
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "JPEG")
        text = base64.b64encode(picture.getvalue()).decode()
        self.predict(context, pandas.DataFrame({"image": [text]}))

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: Any = None
    ) -> list[Answer]:
        """Return label and probabilities for each row of the column `image`.

        Raises:
            MlflowException: (HTTP 400) an image is no base64 or cannot be decoded, or the
                threshold is no probability.
        """
        if model_input.empty:
            return []
        threshold = (params or {}).get("threshold")
        if threshold is not None and not 0 <= threshold <= 1:
            raise MlflowException.invalid_parameter_value(
                f"threshold is {threshold:g}: give a probability from 0 to 1."
            )
        texts = model_input["image"]
        # a single image is decoded at once: handing it to another thread would only cost time
        run = map if len(texts) == 1 else self.pool.map
        pixels = list(run(self._decode, range(len(texts)), texts))
        return self.classifier.answer(self.classifier.probabilities(np.stack(pixels)), threshold)

    def _decode(self, row: int, text: object) -> Pixels:
        try:
            if not isinstance(text, str):
                raise UnreadableImage("not a string")
            return self.classifier.decode(pybase64.b64decode(text, validate=True))
        except binascii.Error as error:
            reason = f"no base64 ({error})"
        except UnreadableImage as error:
            reason = str(error)
        raise MlflowException.invalid_parameter_value(
            f"image in row {row} cannot be read: {reason}. Send the base64 of an image file."
        )


mlflow.models.set_model(ServedClassifier())
