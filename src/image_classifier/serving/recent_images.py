"""Measurements of the last images that a server classified; never the images themselves."""

from collections import deque
from threading import Lock

import numpy as np

from image_classifier.classifier import Outputs
from image_classifier.known_images import Measurements, join


class RecentImages:
    """What was measured of the last images; several threads may use it."""

    def __init__(self, most: int) -> None:
        """Keep at most so many images; with 0, none."""
        self._images: deque[Measurements] = deque(maxlen=most)
        self._lock = Lock()
        self.added = 0  # images so far: whether there are others than before

    def add(self, outputs: Outputs) -> None:
        """Add the images of a request."""
        measured = outputs.measurements
        # copies: a row alone would keep the arrays of the whole request in memory
        rows = [measured.take(np.array([index])) for index in range(len(measured))]
        with self._lock:
            self._images.extend(rows)
            self.added += len(rows)

    def all(self) -> tuple[int, Measurements | None]:
        """Return how many images were added so far, and the measurements of the last ones."""
        with self._lock:
            added, images = self.added, list(self._images)
        return added, join(images) if images else None
