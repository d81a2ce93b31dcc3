"""The model as MLflow stores and serves it: one column `image`, an image file in base64.

MLflow stores this file as code ("models from code") and runs it when it loads the model, so
nothing is pickled.
"""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import joblib
import mlflow
import numpy as np
import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from image_classifier.classifier import (
    METADATA_FILE,
    WEIGHTS,
    Classifier,
    Metadata,
    read_metadata,
)
from image_classifier.config.schema import PROBABILITY
from image_classifier.data import dicom
from image_classifier.data.images import Pixels, reason_of
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.project import digests
from image_classifier.serving import base64_text
from image_classifier.serving.prediction import Prediction, predictions, schema
from image_classifier.serving.recent_images import RecentImages

# not EPS, which runs Ghostscript, and not ICO, which can contain another image
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
START_OF_SCAN = b"\xff\xda"
MAXIMUM_SCANS = 100  # a progressive JPEG has about ten; each takes as long as a whole image


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
    """Decodes the images of a request in parallel, and classifies them in one call."""

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
        self.classifier = Classifier.load(folder)
        self.limits = json.loads(Path(context.artifacts["limits"]).read_text())
        self.recent = RecentImages(0)  # `serve` replaces it; MLflow's own server has no /drift
        self.pool = ThreadPoolExecutor(joblib.cpu_count())
        # decoding takes the most memory: one image at a time for each core
        self.decoders = Semaphore(joblib.cpu_count())
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
        texts = model_input["image"]
        if len(texts) > self.limits["maximum_images"]:
            raise refusal(
                f"{len(texts)} images in one request: send at most {self.limits['maximum_images']}."
            )
        # a single image is decoded in this thread: passing it to another one would only cost time
        mapped = map if len(texts) == 1 else self.pool.map
        decoded = list(mapped(self._decode, range(len(texts)), texts))
        outputs = self.classifier.outputs(np.stack([pixels for pixels, _ in decoded]))
        self.recent.add(outputs)
        seen = [answer for _, answer in decoded] if self.classifier.remembers else None
        return predictions(self.classifier, outputs, threshold, seen)

    def _decode(self, row: int, text: object) -> tuple[Pixels, str]:
        try:
            if not isinstance(text, str):
                raise UnreadableImage(f"not a string: {base64_text.ADVICE}")
            with self.decoders:
                content = base64_text.decode(text, self.limits["maximum_image_bytes"])
                if dicom.is_dicom(content) and not self.limits.get("dicom"):
                    raise UnreadableImage(
                        "a DICOM file: the setting serving.dicom does not allow it"
                    )
                check_header(content, self.limits["maximum_pixels"])
                return self.classifier.decode(content), self.classifier.seen(content)
        except UnreadableImage as error:
            raise refusal(f"image in row {row} cannot be read: {error}.") from None


def check_header(content: bytes, maximum_pixels: int) -> None:
    """Refuse an image that would take too much memory or time, before it is decoded.

    Raises:
        UnreadableImage: its format is not served, it has too many pixels, or it is a JPEG with
            more scans than any program writes.
    """
    try:
        if dicom.is_dicom(content):
            width, height = dicom.facts(content)[2:4]
        else:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(f"more than {maximum_pixels} pixels: scale it down") from None
    except UnidentifiedImageError:
        raise UnreadableImage(
            f"not an image file ({', '.join(FORMATS)}): send one in base64"
        ) from None
    except Exception as error:  # Pillow raises a dozen kinds, struct.error among them
        raise UnreadableImage(reason_of(error)) from None
    if width * height > maximum_pixels:
        raise UnreadableImage(
            f"{width} x {height}, more than {maximum_pixels} pixels: scale it down"
        )
    if content.count(START_OF_SCAN) > MAXIMUM_SCANS:
        raise UnreadableImage(
            f"a JPEG of more than {MAXIMUM_SCANS} scans: save it as a baseline JPEG"
        )


def refusal(message: str) -> MlflowException:
    """Return the error that the scoring server answers with status 400 and this message."""
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(ServedClassifier())
