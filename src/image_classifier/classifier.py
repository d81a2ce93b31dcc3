"""A trained model that classifies images: weights, classes, image size and threshold.

On disk it is a folder with `model.keras` and `classifier.json`, and with `known_images.npz` once it
was evaluated. Training writes it, MLflow stores it, and evaluation, prediction and serving load it.
"""

import copy
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import scipy.special
import tensorflow as tf

from image_classifier import known_images
from image_classifier.data import images
from image_classifier.data.images import Fit, Pixels, Rendering
from image_classifier.data.near_duplicates import identify
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.known_images import KnownImages, Measurements
from image_classifier.project import digests
from image_classifier.project.files import new_file, read_bytes

WEIGHTS = "model.keras"
METADATA_FILE = "classifier.json"
BATCH = 32
CHUNK = 64  # files that are classified together
AHEAD = 2  # chunks that are decoded meanwhile

File = TypeVar("File")
Probabilities = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]


class Outputs(NamedTuple):
    """What a model says about images.

    Attributes:
        probabilities: float32 array of shape (images, classes), values 0 to 1; each row sums to 1.
        features: float32 array of shape (images, features): what the last layer sees.
        pixels: float32 array of shape (images, 3); see `Measurements.pixels`.
    """

    probabilities: Probabilities
    features: Features
    pixels: Features

    @property
    def measurements(self) -> Measurements:
        """The same, to compare sets of images."""
        return Measurements(self.features, self.probabilities, self.pixels)


@dataclass(frozen=True)
class Metadata:
    """What belongs to the weights of a model.

    Attributes:
        classes: Names in the order of the model's outputs; of two, the second is positive.
        threshold: The positive class is predicted when its probability is at least this, 0 to 1;
            not used with more than two classes.
        temperature: Logits are divided by it; above 0, and 1 leaves the probabilities unchanged.
        height: Height of the model's images, in pixels.
        width: Width of the model's images, in pixels.
        channels: 3 for RGB, 1 for grey.
        decoder: `DECODER_VERSION` of the code that decoded the training images; a digest in
            versions that were registered before decoders had a number.
        fit: How images of other shapes fit; see `images.Rendering`.
        scale: The values that became 0 and 255 in training images with more than 8 bits per
            channel; None if there were no such images.
        flip: Whether the probabilities are the mean of those of the image and its mirror image.
        coverage: For at least this share of images from the same source, on average, the true
            class is among the plausible ones, 0 to 1; see `doubt.plausible_limit`. None in
            versions that were registered before.
        plausible_limit: A class is plausible when its probability is at least this, 0 to 1. The
            predicted class and the most probable one always are.
        unknown: When the answer is `unknown`: `ambiguous`: more than one class is plausible;
            `unusual`: see `unusual_percentile`.
        unusual_percentile: An image is unusual from this percentile on; see
            `KnownImages.percentiles`.
        weights_sha256: SHA-256 of the file of the weights; `write_metadata` sets it.
    """

    classes: list[str]
    threshold: float
    temperature: float
    height: int
    width: int
    channels: int
    decoder: int | str
    fit: Fit = "squash"
    scale: tuple[float, float] | None = None
    flip: bool = False
    coverage: float | None = None
    plausible_limit: float = 0.0
    unknown: tuple[str, ...] = ()
    unusual_percentile: float = 100.0
    weights_sha256: str = ""

    @property
    def rendering(self) -> Rendering:
        """How an image file becomes the model's input."""
        return Rendering(self.height, self.width, self.channels, self.fit, self.scale)


class Classifier:
    """A model with its metadata."""

    def __init__(
        self, model: keras.Model, metadata: Metadata, known: KnownImages | None = None
    ) -> None:
        """Store a Keras model of uint8 images, its metadata, and what it knows about images."""
        self.model = model
        self.metadata = metadata
        self.known = known
        shape = (None, metadata.height, metadata.width, metadata.channels)
        # one graph for every batch size; unlike predict(), several threads may call it
        both = keras.Model(model.inputs, [model.outputs[0], model.layers[-1].input])
        self._forward = tf.function(
            lambda batch: both(batch, training=False),
            input_signature=[tf.TensorSpec(shape, tf.uint8)],
        )

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Load a classifier from a folder; warn if it was trained with another image decoder."""
        metadata = read_metadata(folder)
        if metadata.decoder != images.DECODER_VERSION:
            logging.getLogger(__name__).warning(
                "This model was trained with another version of the image decoder (%s, now %s): "
                "pixels may differ. To train it again: `dvc repro`.",
                metadata.decoder,
                images.DECODER_VERSION,
            )
        model = keras.models.load_model(folder / WEIGHTS, compile=False, safe_mode=True)
        return cls(model, metadata, known_images.read(folder))

    def with_metadata(self, metadata: Metadata) -> "Classifier":
        """Return the same model with other metadata, without tracing its graph again."""
        other = copy.copy(self)
        other.metadata = metadata
        return other

    def decode(self, content: bytes | Path) -> Pixels:
        """Decode one image for this model; see `images.decode`."""
        return images.decode(content, self.metadata.rendering)

    @property
    def remembers(self) -> bool:
        """Whether the model has digests of the images that it was made with."""
        return self.known is not None and bool(self.known.digests)

    def seen(self, content: bytes | Path) -> str:
        """Return whether the model has seen an image: `exactly`, `near copy` or `no`.

        Empty if the model does not remember images.

        Raises:
            UnreadableImage: the content cannot be decoded.
            OSError: the file cannot be read.
        """
        if self.known is None or not self.remembers:
            return ""
        content = read_bytes(content) if isinstance(content, Path) else content
        file = identify(content)
        return self.known.seen(file.sha256, file.perceptual_hash)

    def outputs(self, pixels: Pixels, alone: bool = True) -> Outputs:
        """Return probabilities, features, and brightness, contrast and sharpness of images.

        Args:
            pixels: uint8 array of shape (images, height, width, channels).
            alone: Whether a single image is classified by itself. That is faster, but rounds
                otherwise than in a batch: the last bit may differ. The size of the batch and the
                other images in it make no difference.
        """
        if len(pixels) == 1 and not alone:
            pair = self.outputs(np.concatenate([pixels, pixels]))
            return Outputs(*(values[:1] for values in pair))
        outputs, features = self._both(pixels)
        if self.metadata.flip:
            outputs = np.mean([outputs, self._both(pixels[:, :, ::-1])[0]], axis=0)
        if outputs.shape[1] == 1:
            outputs = np.hstack([1 - outputs, outputs])
        probabilities = apply_temperature(outputs, self.metadata.temperature)
        return Outputs(probabilities, features, known_images.measure_pixels(pixels))

    def probabilities(self, pixels: Pixels) -> Probabilities:
        """Return the probability of every class for every image; see `outputs`."""
        return self.outputs(pixels).probabilities

    def _both(self, pixels: Pixels) -> tuple[Probabilities, Features]:
        # parts of nearly equal size: none has a single image, which would round otherwise
        parts = [
            self._forward(tf.constant(part))
            for part in np.array_split(pixels, -(-len(pixels) // BATCH))
        ]
        outputs = np.concatenate([part[0].numpy() for part in parts])
        return outputs, np.concatenate([part[1].numpy() for part in parts])

    def outputs_of_files(
        self,
        files: Iterable[File],
        read: Callable[[Any], bytes] = read_bytes,
        seen: bool = False,
        threads: int | None = None,
    ) -> Iterator[tuple[File, "Outputs | UnreadableImage", str]]:
        """Yield each file, in order, with its `outputs`, or why it is unreadable.

        What a file gets does not depend on the other files, to the last bit. The next files are
        decoded while one chunk is classified: at most 1 + `AHEAD` chunks are in the memory.

        Args:
            files: Paths, or whatever `read` takes.
            read: Returns the content of a file.
            seen: Whether the third value is `seen` of the file; otherwise it is empty.
            threads: Threads that decode; None: one for each core and a few.

        Raises:
            OSError: a file cannot be read.
        """

        def decode(file: File) -> tuple[Pixels, str] | UnreadableImage:
            try:
                content = read(file)
                return self.decode(content), self.seen(content) if seen else ""
            except UnreadableImage as error:
                return error

        files = iter(files)
        chunks: deque[tuple[list[File], Iterator[tuple[Pixels, str] | UnreadableImage]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            while (chunk := list(islice(files, CHUNK))) or chunks:
                if chunk:
                    chunks.append((chunk, pool.map(decode, chunk)))
                if len(chunks) > AHEAD or not chunk:
                    names, decoded = chunks.popleft()
                    yield from zip(names, *self._classified(list(decoded)), strict=True)

    def _classified(
        self, decoded: Sequence[tuple[Pixels, str] | UnreadableImage]
    ) -> tuple[list["Outputs | UnreadableImage"], list[str]]:
        """Return outputs and `seen` of decoded images, or why they are unreadable."""
        pixels = [item[0] for item in decoded if not isinstance(item, UnreadableImage)]
        outputs = self.outputs(np.stack(pixels), alone=False) if pixels else ()
        rows = zip(*(values[:, None] for values in outputs), strict=True)
        return (
            [
                item if isinstance(item, UnreadableImage) else Outputs(*next(rows))
                for item in decoded
            ],
            ["" if isinstance(item, UnreadableImage) else item[1] for item in decoded],
        )

    def decide(
        self, probabilities: Probabilities, threshold: float | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the class index, int64 of shape (images,), for rows of `probabilities`.

        With two classes the threshold decides, the model's own or the given one; with more
        classes the highest probability.
        """
        if probabilities.shape[1] == 2:
            limit = self.metadata.threshold if threshold is None else threshold
            return (probabilities[:, 1] >= limit).astype(np.int64)
        chosen: npt.NDArray[np.int64] = np.argmax(probabilities, axis=1)
        return chosen

    def plausible(
        self, probabilities: Probabilities, threshold: float | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return which classes are plausible: bool array of the shape of `probabilities`.

        The predicted class and the most probable class always are: if the model is more often
        right than `Metadata.coverage` asks for, some images would have no plausible class
        otherwise. More plausible classes only raise the coverage.

        Args:
            probabilities: float32 array of shape (images, classes).
            threshold: See `decide`.
        """
        chosen = np.asarray(probabilities >= self.metadata.plausible_limit)
        images = np.arange(len(chosen))
        chosen[images, np.argmax(probabilities, axis=1)] = True
        chosen[images, self.decide(probabilities, threshold)] = True
        return chosen


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Write the metadata beside the weights, with the SHA-256 of the weights.

    A model is served only if its metadata were written after its weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = digests.of_file(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else ""
    metadata = replace(metadata, weights_sha256=digest)
    new_file(folder / METADATA_FILE).write_text(json.dumps(asdict(metadata), indent=2) + "\n")


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata beside the weights."""
    stored = json.loads((folder / METADATA_FILE).read_text())
    if stored.get("scale"):
        stored["scale"] = tuple(stored["scale"])
    stored["unknown"] = tuple(stored.get("unknown", ()))
    return Metadata(**stored)


def weights_digest(model: keras.Model) -> str:
    """Return a SHA-256 over a model's weights: the same when they are equal to the last bit."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return the probabilities whose logits are divided by a temperature.

    Args:
        probabilities: float array of shape (images, classes), each row sums to 1.
        temperature: Above 1 the probabilities become less certain, below 1 more certain.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2. Logarithms
    of the probabilities serve as logits.
    """
    if temperature == 1:
        return probabilities
    smallest = np.finfo(np.float32).tiny
    logits = np.log(probabilities.clip(smallest)) / temperature
    return np.asarray(scipy.special.softmax(logits, axis=1), np.float32)
