"""The model as MLflow stores and serves it: one column `image`, an image file in base64.

MLflow stores this file as code ("models from code") and runs it when it loads the model, so
nothing is pickled.

MLflow also stores the package `image_classifier` with the model. Python imports a package once in
a process, so a second version would run the code of the first, or that of an installed package.
So this file imports the package anew, from the model. The functions that answer must not import
modules of the package: they would get those of others.
"""

import base64
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image
from pydantic import ValidationError

CODE = Path(__file__).resolve().parent / "code"  # in a stored model: where MLflow puts the package

log = logging.getLogger("mlflow.image_classifier")  # MLflow shows what its loggers say


@contextmanager
def stored_package() -> Iterator[None]:
    """Import `image_classifier` from the stored model, whatever was imported before the block."""
    if not CODE.is_dir():  # this file is not in a stored model
        yield
        return
    others = _take_package()
    try:
        yield
    finally:
        _take_package()  # those who import it after this get what they got before
        sys.modules.update(others)


def _take_package() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "image_classifier"]
    return {name: sys.modules.pop(name) for name in names}


with stored_package():
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
            MlflowException: the weights are not what was stored, or the code is not.
        """
        package = Path(digests.__file__).resolve().parents[1]
        if package.parent != CODE:
            raise MlflowException(f"{package} was imported instead of {CODE}: use MLflow to load.")
        digest = digests.of_folder(package)[:16]
        log.info("This model runs the code that is stored with it: %s, digest %s", package, digest)
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
