"""Classifies the images of a request: files or base64, within the limits, decoded in parallel."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import NamedTuple

import cv2
import joblib
import numpy as np

from image_classifier.classifier import Classifier, Outputs
from image_classifier.data.images import Pixels
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.serving import base64_text
from image_classifier.serving.batches import Batches
from image_classifier.serving.image_limits import check_header
from image_classifier.serving.prediction import Prediction, predictions


class BadRequest(ValueError):
    """There are too many images in a request, or one of them cannot be read."""


class Decoded(NamedTuple):
    """An image of a request.

    Attributes:
        pixels: uint8 array of shape (height, width, channels).
        seen: See `Prediction.seen`.
        sha256: The digest of the file; empty if it is not wanted.
    """

    pixels: Pixels
    seen: str
    sha256: str


class Classified(NamedTuple):
    """The images of a request, classified.

    Attributes:
        predictions: One for each image.
        outputs: What they come from.
        sha256: The digest of each file; empty texts if they are not wanted.
        alone: See `Classifier.outputs`.
    """

    predictions: list[Prediction]
    outputs: Outputs
    sha256: list[str]
    alone: bool


class ImageService:
    """A classifier with limits on what it reads; several threads may use it."""

    def __init__(
        self,
        classifier: Classifier,
        limits: Mapping[str, int],
        batch_images: int = 1,
        on_batch: Callable[[int], None] | None = None,
        digests: bool = False,
    ) -> None:
        """Store the classifier and what it accepts.

        Args:
            classifier: The classifier.
            limits: See `Serving.image_limits`.
            batch_images: See `Serving.batch_images`.
            on_batch: See `Batches`.
            digests: Whether the digests of the files are wanted.
        """
        self.classifier = classifier
        self.limits = limits
        self.batches = Batches(classifier, batch_images, on_batch)
        self.digests = digests
        self.pool = ThreadPoolExecutor(joblib.cpu_count())
        # decoding takes the most memory: one image at a time for each core
        self.decoders = Semaphore(joblib.cpu_count())

    def classify(self, images: Sequence[bytes | str], threshold: float | None = None) -> Classified:
        """Return what the model says about images.

        Args:
            images: At least one file, as bytes or in base64.
            threshold: Instead of the model's own, 0 to 1.

        Raises:
            BadRequest: there are too many images, or one is not base64, too large or unreadable.
        """
        classes = self.classifier.metadata.classes
        if threshold is not None and len(classes) != 2:
            raise BadRequest(
                f"threshold: this model has {len(classes)} classes, and predicts the most "
                f"probable one. Leave it out."
            )
        most = self.limits["maximum_images"]
        if len(images) > most:
            raise BadRequest(f"{len(images)} images in one request: send at most {most}.")
        # a single image is decoded in this thread: passing it to another one would only cost time
        mapped = map if len(images) == 1 else self.pool.map
        decoded = list(mapped(self.read, range(len(images)), images))
        outputs, alone = self.batches.classify(np.stack([image.pixels for image in decoded]))
        seen = [image.seen for image in decoded] if self.classifier.remembers else None
        return Classified(
            predictions(self.classifier, outputs, threshold, seen),
            outputs,
            [image.sha256 for image in decoded],
            alone,
        )

    def example(self) -> bytes:
        """Return a JPEG of noise, as large as the limits allow, but at most 1024 x 1024."""
        side = min(1024, int(self.limits["maximum_pixels"] ** 0.5))
        while True:
            noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
            content = bytes(cv2.imencode(".jpg", noise)[1])
            if side == 1 or len(content) <= self.limits["maximum_image_bytes"]:
                return content
            side //= 2

    def warm_up(self) -> None:
        """Classify a few images, so that the first request takes no longer than the others."""
        content = self.example()
        for _ in range(3):
            try:
                pixels = self.read(0, content).pixels
            except BadRequest:  # the limits allow no image at all
                return
            outputs = self.classifier.outputs(pixels[None])
            predictions(self.classifier, outputs, None, None)

    def read(self, row: int, image: bytes | str) -> Decoded:
        """Return an image of a request as the model's input.

        Args:
            row: Its place in the request, for the message.
            image: A file, as bytes or in base64.

        Raises:
            BadRequest: it is not base64, too large or unreadable.
        """
        limits = self.limits
        largest = limits["maximum_image_bytes"]
        try:
            with self.decoders:
                content = base64_text.decode(image, largest) if isinstance(image, str) else image
                if len(content) > largest:
                    raise UnreadableImage(f"more than {largest} bytes: send a smaller file")
                check_header(content, limits["maximum_pixels"], bool(limits.get("dicom")))
                digest = hashlib.sha256(content).hexdigest() if self.digests else ""
                return Decoded(
                    self.classifier.decode(content), self.classifier.seen(content), digest
                )
        except UnreadableImage as error:
            raise BadRequest(f"image in row {row} cannot be read: {error}.") from None
