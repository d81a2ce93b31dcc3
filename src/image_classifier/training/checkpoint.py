"""What a training writes after every epoch: all variables, for the best model and for a restart."""

import json
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.files import whole_file
from image_classifier.schema import Training

FILES = f"epoch-{'[0-9]' * 6}.npz"  # and none that is still written, which has another name
PROGRESS = "progress.json"  # in an epoch's file, beside the variables
CHUNK = 2**20  # bytes; a checksum and a write of so much find it in the processor's cache


@dataclass
class Progress:
    """How far a training has come, in all its attempts.

    Attributes:
        history: `loss`, `accuracy`, `val_loss` and `val_accuracy`, one value an epoch.
        stopped: Whether it ended before its last epoch.
        costs: Seconds spent, by kind.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    stopped: bool = False
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs are finished."""
        return len(self.history.get("loss", []))

    def done(self, training: Training) -> bool:
        """Whether no epoch is left."""
        return self.stopped or self.epochs >= training.epochs

    def best(self, training: Training, epochs: int | None = None) -> tuple[int, float]:
        """Return the best of the first epochs, or of all, counted from 1, and its monitored value.

        Of equals the first is the best; one whose loss is not a number never is (its accuracy can
        be one all the same): 0 where all are such.
        """
        diverged = np.isnan(self.history["val_loss"][:epochs])
        values = np.where(diverged, np.nan, self.history[training.monitor][:epochs])
        if np.isnan(values).all():
            return 0, float("nan")
        best = int(np.nanargmax(values) if training.mode == "max" else np.nanargmin(values))
        return best + 1, float(values[best])


class Checkpoint(keras.callbacks.Callback):
    """Writes an epoch's file while the next epoch runs; keeps the best one's and the last one's.

    A file holds every variable of model and optimizer, the seeds of dropout among them, so a
    training that goes on from it ends with the same weights to the last bit. Keras's
    BackupAndRestore drops those seeds, and writes over the only state it has.
    """

    def __init__(
        self,
        folder: Path,
        training: Training,
        progress: Progress,
        stoppers: Sequence[keras.callbacks.Callback] = (),
        costs: Callable[[], dict[str, float]] = dict,
    ) -> None:
        """Take what to keep, and where.

        Args:
            folder: Of this training. Its files are whole at any time.
            training: Says which epoch is the best.
            progress: What earlier attempts did; is kept up to date.
            stoppers: Callbacks before this one that may end the training; they are shown the
                epochs of earlier attempts first.
            costs: Returns the seconds spent so far, by kind.
        """
        super().__init__()
        self.folder = folder
        self.training = training
        self.progress = progress
        self.stoppers = stoppers
        self.costs = costs
        self.pool = ThreadPoolExecutor(1, initializer=_yield_to_training)
        self.writing: Future[None] | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Bring patience and the best so far of the stoppers to where the training was."""
        for epoch in range(self.progress.epochs):
            seen = {name: values[epoch] for name, values in self.progress.history.items()}
            for stopper in self.stoppers:
                stopper.on_epoch_end(epoch, seen)
        self.model.stop_training = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Take all variables as they are, and have them written."""
        self._wait()
        for name, value in logs.items():
            self.progress.history.setdefault(name, []).append(float(value))
        self.progress.stopped = bool(self.model.stop_training)
        self.progress.costs = self.costs()
        # no copies: TensorFlow never changes a tensor that somebody holds, and gives the variable
        # other memory when the next step updates it
        held = [tf.identity(variable.value) for variable in variables_of(self.model)]
        best = self.progress.best(self.training)[0]
        text = json.dumps(asdict(self.progress))
        self.writing = self.pool.submit(self._write, self.progress.epochs, best, text, held)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait until the files are written; raises what went wrong with them."""
        self._wait()
        self.pool.shutdown()

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.result()

    def _write(self, epoch: int, best: int, progress: str, held: list[tf.Tensor]) -> None:
        with whole_file(epoch_file(self.folder, epoch)) as partial:
            write_variables(partial, progress, held)
        keep = {epoch_file(self.folder, number) for number in (epoch, best)}
        for file in self.folder.glob(FILES):
            if file not in keep:
                file.unlink()  # only now: until the newest was whole, this was the last one


def epoch_file(folder: Path, epoch: int) -> Path:
    """Return the file of an epoch, counted from 1."""
    return folder / f"epoch-{epoch:06}.npz"


def write_variables(path: Path, progress: str, variables: Sequence[tf.Tensor]) -> None:
    """Write variables as NumPy's npz format, which has a checksum for each.

    np.savez would copy them first: beside a training that takes about twice the processor time.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(PROGRESS, progress)
        for index, variable in enumerate(variables):
            array = np.asarray(variable)
            header = np.lib.format.header_data_from_array_1_0(array)
            content = array.reshape(-1).view(np.uint8).data
            with archive.open(f"{index}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for start in range(0, len(content), CHUNK):
                    member.write(content[start : start + CHUNK])


def restore(model: keras.Model, folder: Path, training: Training) -> Progress:
    """Bring a compiled model to where an earlier attempt left it; return how far that came.

    A damaged file is told and passed over: the training goes on from the one before it that was
    kept, or starts anew.
    """
    for path in sorted(folder.glob(FILES), reverse=True):
        try:
            progress, values = _read(path)
            best = progress.best(training)[0]
            if best not in (0, progress.epochs):
                _read(epoch_file(folder, best))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            print(f"{path} is damaged, or its best epoch's file ({error}): it is passed over.")
            continue
        for variable, value in zip(variables_of(model), values, strict=True):
            variable.assign(value)
        return progress
    return Progress()


def _read(path: Path) -> tuple[Progress, list[npt.NDArray[np.generic]]]:
    with np.load(path) as content:  # the checksums of a zip file: damage raises
        progress = Progress(**json.loads(content[PROGRESS]))
        return progress, [content[str(index)] for index in range(len(content.files) - 1)]


def assign_weights(model: keras.Model, folder: Path, epoch: int) -> None:
    """Give a model the weights of an epoch, counted from 1; an optimizer's variables stay out."""
    with np.load(epoch_file(folder, epoch)) as content:
        for index, variable in enumerate(model.variables):
            variable.assign(content[str(index)])


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Return every variable that decides how a compiled model goes on training."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _yield_to_training() -> None:
    """Let the thread that writes take the time that the training leaves."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
