"""Images that requests bring at the same moment are classified together."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from image_classifier.classifier import Classifier, Outputs
from image_classifier.data.images import Pixels


@dataclass(eq=False)
class Part:
    """The images of one request, and what the model says about them.

    Attributes:
        pixels: See `Classifier.outputs`.
        outputs: See `Outputs`; None until they were classified.
        alone: Whether a single image was classified by itself; see `Classifier.outputs`.
    """

    pixels: Pixels
    outputs: Outputs | None = None
    alone: bool = False

    def result(self) -> tuple[Outputs, bool]:
        """Return `outputs` and `alone`.

        Raises:
            RuntimeError: the batch failed in the thread that classified it.
        """
        if self.outputs is None:
            raise RuntimeError("the images of this request were in a batch that failed")
        return self.outputs, self.alone


class Batches:
    """Classifies the images of several threads, one batch at a time.

    No thread of its own: whoever has its turn also classifies what waits behind it. So a request
    that is alone waits for nobody.
    """

    def __init__(
        self, classifier: Classifier, most: int, on_batch: Callable[[int], None] | None = None
    ) -> None:
        """Store the model, and the most images that are put together.

        `on_batch` is called with the number of images of each batch.
        """
        self.classifier = classifier
        self.most = most
        self.on_batch = on_batch or (lambda images: None)
        self.waiting: deque[Part] = deque()
        self.turn = Lock()

    def classify(self, pixels: Pixels) -> tuple[Outputs, bool]:
        """Return what the model says about images, and whether one was alone.

        See `Classifier.outputs`.

        Raises:
            RuntimeError: another thread failed with the batch that these images were in.
        """
        part = Part(pixels)
        if self.most == 1:  # nothing is put together, and several threads may compute
            self._classify([part])
            return part.result()
        self.waiting.append(part)
        with self.turn:
            while part.outputs is None and part in self.waiting:
                self._classify(self._next())
        return part.result()

    def _next(self) -> list[Part]:
        """Remove and return the parts of the next batch, at least one."""
        batch = [self.waiting.popleft()]
        images = len(batch[0].pixels)
        while self.waiting and images + len(self.waiting[0].pixels) <= self.most:
            batch.append(self.waiting.popleft())
            images += len(batch[-1].pixels)
        return batch

    def _classify(self, batch: list[Part]) -> None:
        pixels = np.concatenate([part.pixels for part in batch])
        outputs = self.classifier.outputs(pixels)
        start = 0
        for part in batch:
            rows = slice(start, start + len(part.pixels))
            part.outputs = Outputs(*(values[rows] for values in outputs))
            part.alone = len(pixels) == 1
            start = rows.stop
        self.on_batch(len(pixels))
