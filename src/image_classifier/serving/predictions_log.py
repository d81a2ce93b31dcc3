"""The log of predictions: written by the server, read by `drift` and `predict --replay`."""

import base64
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from image_classifier.errors import InputError
from image_classifier.known_images import Measurements
from image_classifier.serving.image_service import Classified
from image_classifier.serving.prediction import Prediction


class Record(BaseModel):
    """A prediction in the log.

    Attributes:
        time: When it was made, in UTC, ISO 8601.
        model: The address of the version, models:/NAME/VERSION.
        sha256: The digest of the image file.
        threshold: What the request replaced the model's own with, 0 to 1.
        alone: Whether the image was classified by itself; see `Classifier.outputs`.
        prediction: The answer.
        pixels: Brightness, contrast and sharpness; see `Measurements.pixels`.
        features: The model's features of the image: float32, little endian, in base64.
    """

    time: str
    model: str
    sha256: str
    threshold: float | None
    alone: bool
    prediction: Prediction
    pixels: tuple[float, float, float]
    features: str

    @property
    def measurements(self) -> Measurements:
        """What was measured of the image."""
        features = np.frombuffer(base64.b64decode(self.features), "<f4")
        probabilities = list(self.prediction["probabilities"].values())
        rows = (features, probabilities, self.pixels)
        return Measurements(*(np.asarray(row, np.float32)[None] for row in rows))


@dataclass
class PredictionsLog:
    """A file with a line of JSON for each prediction; several processes may write to it.

    Attributes:
        path: The file. It is opened for every request, so it may be renamed at any time.
        failed: Whether the last line could not be written.
    """

    path: Path
    failed: bool = False

    def write(self, model: str, found: Classified, threshold: float | None) -> None:
        """Add the predictions of a request; if that fails, say so once.

        Args:
            model: The address of the version.
            found: Its predictions.
            threshold: What the request replaced the model's own with.
        """
        lines = []
        for index, prediction in enumerate(found.predictions):
            _, features, pixels = (values[index] for values in found.outputs)
            line = {
                "time": now(),
                "model": model,
                "sha256": found.sha256[index],
                "threshold": threshold,
                "alone": found.alone,
                "prediction": prediction,
                "pixels": pixels.tolist(),
                "features": base64.b64encode(features.astype("<f4").tobytes()).decode(),
            }
            lines.append(json.dumps(line) + "\n")
        if self.failed:
            lines.insert(0, "\n")  # the end of a line that a full disk has cut off
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, "".join(lines).encode())  # at once: lines of others are not split
            finally:
                os.close(file)
        except OSError as error:
            if not self.failed:
                print(
                    f"serving.predictions_log={self.path} cannot be written ({error.strerror}): "
                    f"predictions are answered, but not logged, until it can.",
                    flush=True,
                )
            self.failed = True
        else:
            self.failed = False


def read(path: Path) -> tuple[list[Record], int]:
    """Return the predictions in a log, and how many lines are damaged.

    Raises:
        InputError: the file cannot be read.
    """
    records, damaged = [], 0
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    if line.strip():
                        records.append(Record.model_validate_json(line))
                except ValidationError:  # a full disk has cut it off
                    damaged += 1
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    return records, damaged


def now() -> str:
    """Return the time, in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
