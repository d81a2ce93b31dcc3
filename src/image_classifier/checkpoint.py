"""What a training writes after every epoch: the best model so far, and all that a restart needs."""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from image_classifier.files import whole_file
from image_classifier.schema import Training

STATE = "state.npz"


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

        Of equals the first is the best; one that is not a number never is: 0 where all are such.
        """
        values = np.array(self.history[training.monitor][:epochs])
        if np.isnan(values).all():
            return 0, float("nan")
        best = int(np.nanargmax(values) if training.mode == "max" else np.nanargmin(values))
        return best + 1, float(values[best])


class Checkpoint(keras.callbacks.Callback):
    """Writes the best model and the state of the training, while the next epoch runs.

    The state holds every variable of model and optimizer, the seeds of dropout among them, so a
    training that goes on from it ends with the same weights to the last bit. Keras's
    BackupAndRestore drops those seeds, and writes over the only state it has.
    """

    def __init__(
        self,
        empty: keras.Model,
        folder: Path,
        training: Training,
        progress: Progress,
        stoppers: Sequence[keras.callbacks.Callback] = (),
        costs: Callable[[], dict[str, float]] = dict,
    ) -> None:
        """Take what to keep, and where.

        Args:
            empty: A model of the same layers, never compiled; takes the weights to the file, so
                that optimizer state, two thirds of what Keras's checkpoint holds, stays out.
            folder: Of this training. Its files are whole at any time.
            training: Says which epoch is the best.
            progress: What earlier attempts did; is kept up to date.
            stoppers: Callbacks before this one that may end the training; they are shown the
                epochs of earlier attempts first.
            costs: Returns the seconds spent so far, by kind.
        """
        super().__init__()
        self.empty = empty
        self.folder = folder
        self.training = training
        self.progress = progress
        self.stoppers = stoppers
        self.costs = costs
        self.pool = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Bring patience and the best so far of the stoppers to where the training was."""
        for epoch in range(self.progress.epochs):
            seen = {name: values[epoch] for name, values in self.progress.history.items()}
            for stopper in self.stoppers:
                stopper.on_epoch_end(epoch, seen)
        self.model.stop_training = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Take copies of all variables, and have them written."""
        self._wait()
        for name, value in logs.items():
            self.progress.history.setdefault(name, []).append(float(value))
        self.progress.stopped = bool(self.model.stop_training)
        self.progress.costs = self.costs()
        best = self.progress.best(self.training)[0]
        if best == epoch + 1:
            self.empty.set_weights(self.model.get_weights())
        text = json.dumps(asdict(self.progress))
        values = [variable.numpy().copy() for variable in variables_of(self.model)]
        self.writing = self.pool.submit(self._write, best, best == epoch + 1, text, values)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait until the files are written; raises what went wrong with them."""
        self._wait()
        self.pool.shutdown()

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.result()

    def _write(
        self, best: int, improved: bool, progress: str, values: list[npt.NDArray[np.generic]]
    ) -> None:
        if improved:
            with whole_file(best_model(self.folder, best)) as partial:
                self.empty.save(partial)
        with whole_file(self.folder / STATE) as partial:
            names = {f"variable_{index}": value for index, value in enumerate(values)}
            np.savez(partial, progress=np.array(progress), **names)  # type: ignore[arg-type]
        for file in self.folder.glob("best-*.keras"):
            if file != best_model(self.folder, best):
                file.unlink()  # only now: the state before named it


def best_model(folder: Path, epoch: int) -> Path:
    """Return the file of the best model so far; each has its own, so the state always fits."""
    return folder / f"best-{epoch:05}.keras"


def restore(model: keras.Model, folder: Path, training: Training) -> Progress:
    """Bring a compiled model to where an earlier attempt left it; return how far that came.

    Where there was none, or where its state is damaged, the model stays as it is.
    """
    path = folder / STATE
    try:
        with np.load(path) as state:  # the checksums of a zip file: damage raises
            progress = Progress(**json.loads(str(state["progress"])))
            values = [state[f"variable_{index}"] for index in range(len(state.files) - 1)]
        best = progress.best(training)[0]
        if best and not best_model(folder, best).is_file():
            raise ValueError(f"{best_model(folder, best).name} is missing")
    except FileNotFoundError:
        return Progress()
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        print(f"{path} is damaged ({error}): the training starts anew.")
        return Progress()
    for variable, value in zip(variables_of(model), values, strict=True):
        variable.assign(value)
    return progress


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Return every variable that decides how a compiled model goes on training."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]
