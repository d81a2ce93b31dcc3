"""Keeps the best epoch's weights, off the training's critical path."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras

from image_classifier.config import Training


class BestCheckpoint(keras.callbacks.Callback):
    """Writes a model's file at every epoch that is better than those before.

    A thread writes it while the next epoch trains. Optimizer state, two thirds of what Keras's
    own checkpoint holds, stays out: nothing that reads the file needs it.
    """

    def __init__(self, empty: keras.Model, path: Path, training: Training) -> None:
        """Take what to keep.

        Args:
            empty: A model of the same layers, never compiled; takes the weights to the file.
            path: The .keras file. It is whole at any time: written beside, then renamed.
            training: Says which figure decides, and whether more or less of it is better.
        """
        super().__init__()
        self.empty = empty
        self.path = path
        self.monitor = training.monitor
        self.sign = -1 if training.mode == "min" else 1
        self.best = float("-inf")
        self.pool = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Take the weights where this epoch is the best so far; a NaN never is."""
        if (value := self.sign * logs[self.monitor]) > self.best:
            self.best = value
            self._wait()
            self.empty.set_weights(self.model.get_weights())
            self.writing = self.pool.submit(self._write)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait until the file is written; raises what went wrong with it."""
        self._wait()
        self.pool.shutdown()

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.result()

    def _write(self) -> None:
        partial = self.path.with_name(f"partial-{self.path.name}")
        self.empty.save(partial)
        partial.replace(self.path)
