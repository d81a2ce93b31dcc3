"""The Keras callback that writes every epoch's variables, for the best model and for a restart."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from image_classifier.config.schema import Training
from image_classifier.project import paths
from image_classifier.project.files import whole_file
from image_classifier.training.epoch_file import (
    epoch_file,
    progress_json,
    variables_of,
    write_variables,
)
from image_classifier.training.phases import Phase
from image_classifier.training.progress import Progress


class Checkpoint(keras.callbacks.Callback):
    """Writes the file of an epoch while the next epoch runs; keeps the best and the last one.

    A file holds every variable of model and optimizer, the seeds of dropout too, so a training
    that continues from it ends with the same weights to the last bit. Keras's BackupAndRestore
    omits those seeds, and overwrites its only state.
    """

    def __init__(
        self,
        folder: Path,
        training: Training,
        progress: Progress,
        stoppers: Sequence[keras.callbacks.Callback] = (),
        timings: Callable[[], dict[str, float]] = dict,
        phase: Phase | None = None,
    ) -> None:
        """Store where to write, and what is restored.

        Args:
            folder: The folder of this training.
            training: Decides which epoch is the best.
            progress: From earlier attempts; this callback adds every finished epoch to it.
            stoppers: The callbacks before this one that may stop the training. They are shown the
                epochs of earlier attempts first, so that their patience continues.
            timings: Returns the seconds spent so far.
            phase: What is fitted; without one, the whole training.
        """
        super().__init__()
        self.folder = folder
        self.training = training
        self.progress = progress
        self.stoppers = stoppers
        self.timings = timings
        self.phase = phase or Phase("whole", 0, training.epochs)
        self.pool = ThreadPoolExecutor(1, initializer=_lower_priority)
        self.writing: Future[None] | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Show the stoppers the epochs of this phase in earlier attempts."""
        for epoch in range(self.phase.first, self.progress.epochs):
            seen = {name: values[epoch] for name, values in self.progress.history.items()}
            for stopper in self.stoppers:
                stopper.on_epoch_end(epoch, seen)
        self.model.stop_training = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Add the epoch to the progress, and start to write its file."""
        self._wait()
        for name, value in logs.items():
            self.progress.history.setdefault(name, []).append(float(value))
        self.progress.stopped = bool(self.model.stop_training)
        diverged = not np.isfinite(logs["loss"])  # TerminateOnNaN, which also ends it
        self.progress.stopped_from_outside = (
            self.progress.stopped and not self._out_of_patience() and not diverged
        )
        if self.phase.name == "head" and self._out_of_patience() and self.training.fine_tunes:
            # only this phase ends early
            self.progress.stopped, self.progress.head_epochs = False, self.progress.epochs
        self.progress.timings = self.timings()
        # No copies (checked with TensorFlow 2.21): TensorFlow never changes a tensor while someone
        # holds it; the next step gives the variable other memory. test_checkpoint.py checks this.
        held = [tf.identity(variable.value) for variable in variables_of(self.model)]
        best = self.progress.best(self.training)[0]
        text = progress_json(self.progress)
        self.writing = self.pool.submit(self._write, self.progress.epochs, best, text, held)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait until the last file is written; raise the error if there was one."""
        self._wait()
        self.pool.shutdown()

    def _out_of_patience(self) -> bool:
        return any(
            isinstance(stopper, keras.callbacks.EarlyStopping) and stopper.stopped_epoch
            for stopper in self.stoppers
        )

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.result()

    def _write(self, epoch: int, best: int, progress: str, held: list[tf.Tensor]) -> None:
        with whole_file(epoch_file(self.folder, epoch)) as partial:
            write_variables(partial, progress, held)
        keep = {epoch_file(self.folder, number) for number in (epoch, best)}
        for file in self.folder.glob(paths.EPOCHS):
            if file not in keep:
                file.unlink()  # only now: until the newest file was complete, this was the last one


def _lower_priority() -> None:
    """Lower the priority of the writing thread, so that it does not slow down the training."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
