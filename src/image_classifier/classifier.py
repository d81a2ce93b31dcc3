"""A trained model as a thing that answers: weights, classes, image size and threshold.

On disk it is a folder of `model.keras` and `classifier.json`: what training leaves, what MLflow
stores, and what evaluation, prediction and serving load.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import scipy.special
import tensorflow as tf

from image_classifier import digests
from image_classifier.data import images
from image_classifier.data.images import Pixels, UnreadableImage

WEIGHTS = "model.keras"
SETTINGS = "classifier.json"
BATCH = 32
CHUNK = 256  # files decoded before they are classified: bounds the memory

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """What goes with the weights.

    Attributes:
        classes: Names in the order of the model's outputs; of two, the second is positive.
        threshold: Probability of the positive class from which it is the answer, 0 to 1; not
            used with more than two classes.
        temperature: What logits are divided by, above 0; 1 leaves the probabilities as they are.
        height: Rows of the images the model takes.
        width: Columns of them.
        channels: 3 for RGB, 1 for grey.
        decoder: SHA-256 of the module that decoded the training images.
        weights_sha256: SHA-256 of the file of the weights; `write_settings` fills it in.
    """

    classes: list[str]
    threshold: float
    temperature: float
    height: int
    width: int
    channels: int
    decoder: str
    weights_sha256: str = ""


def decoder_digest() -> str:
    """Return the SHA-256 of the decoding module as it is now."""
    return hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()


class Classifier:
    """A model with its settings."""

    def __init__(self, model: keras.Model, settings: Settings) -> None:
        """Take a Keras model of uint8 images and the settings that belong to it."""
        self.model = model
        self.settings = settings
        shape = (None, settings.height, settings.width, settings.channels)
        # one graph for every batch size; safe to call from several threads, as predict() is not
        self._forward = tf.function(
            lambda batch: model(batch, training=False),
            input_signature=[tf.TensorSpec(shape, tf.uint8)],
        )

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Load from a folder; warns where this version of the package decodes otherwise."""
        settings = read_settings(folder)
        if settings.decoder != decoder_digest():
            logging.getLogger(__name__).warning(
                "%s was trained with another version of the image decoder: pixels may differ.",
                folder,
            )
        model = keras.models.load_model(folder / WEIGHTS, compile=False, safe_mode=True)
        return cls(model, settings)

    def with_settings(self, settings: Settings) -> "Classifier":
        """Return the same model with other settings, and without tracing its graph again."""
        other = copy.copy(self)
        other.settings = settings
        return other

    def decode(self, content: bytes | Path) -> Pixels:
        """Decode one image for this model; see `images.decode`."""
        return images.decode(
            content, self.settings.height, self.settings.width, self.settings.channels
        )

    def probabilities(self, pixels: Pixels) -> Probabilities:
        """Return the probability of every class for every image.

        Args:
            pixels: uint8 array of shape (images, height, width, channels).

        Returns:
            float32 array of shape (images, classes), values 0 to 1, rows adding up to 1.
        """
        parts = [
            self._forward(tf.constant(pixels[start : start + BATCH])).numpy()
            for start in range(0, len(pixels), BATCH)
        ]
        outputs = np.concatenate(parts)
        if outputs.shape[1] == 1:
            outputs = np.hstack([1 - outputs, outputs])
        return scaled(outputs, self.settings.temperature)

    def probabilities_of_files(
        self, files: Sequence[Path]
    ) -> Iterator[tuple[Path, "Probabilities | UnreadableImage"]]:
        """Yield each file, in order, with its row of `probabilities`, or why it has none."""

        def decode(path: Path) -> Pixels | UnreadableImage:
            try:
                return self.decode(path)
            except UnreadableImage as error:
                return error

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(files), CHUNK):
                chunk = files[start : start + CHUNK]
                decoded = list(pool.map(decode, chunk))
                pixels = [item for item in decoded if isinstance(item, np.ndarray)]
                rows = iter(list(self.probabilities(np.stack(pixels))) if pixels else [])
                for path, item in zip(chunk, decoded, strict=True):
                    yield path, item if isinstance(item, UnreadableImage) else next(rows)

    def decide(
        self, probabilities: Probabilities, threshold: float | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the class index, int64 of shape (images,), for rows of `probabilities`.

        Of two classes the threshold decides, the model's own or the one given; of more the
        highest probability.
        """
        if probabilities.shape[1] == 2:
            limit = self.settings.threshold if threshold is None else threshold
            return (probabilities[:, 1] >= limit).astype(np.int64)
        chosen: npt.NDArray[np.int64] = np.argmax(probabilities, axis=1)
        return chosen


def write_settings(folder: Path, settings: Settings) -> None:
    """Write the settings beside the weights, with the SHA-256 of these.

    A model is served only if its settings were written after its weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = digests.of_file(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else ""
    settings = replace(settings, weights_sha256=digest)
    (folder / SETTINGS).write_text(json.dumps(asdict(settings), indent=2) + "\n")


def read_settings(folder: Path) -> Settings:
    """Read the settings beside the weights."""
    return Settings(**json.loads((folder / SETTINGS).read_text()))


def weights_digest(model: keras.Model) -> str:
    """Return a SHA-256 over a model's weights: equal where they are equal to the last bit."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def scaled(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return the probabilities whose logits are divided by a temperature.

    Args:
        probabilities: float array of shape (images, classes), rows adding up to 1.
        temperature: Above 1 makes them less sure, below 1 surer.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2. A softmax
    takes logarithms of probabilities for logits.
    """
    if temperature == 1:
        return probabilities
    smallest = np.finfo(np.float32).tiny
    logits = np.log(probabilities.clip(smallest)) / temperature
    return np.asarray(scipy.special.softmax(logits, axis=1), np.float32)
