"""The last epochs of finished trainings, from which a training with more epochs continues.

They are in runs/finished/KEY, where KEY is the training's `continuation_key`.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from image_classifier.project import paths
from image_classifier.project.files import whole_file, whole_folder

RECORD = "finished.json"
CONTINUED = "continued.json"  # the record, in the folder of a training that continues
LARGEST = 2 * 10**9  # bytes of all that is kept; the newest is kept whatever its size
MOST = 1000  # trainings; of many there is only the record


@dataclass(frozen=True)
class Finished:
    """A training that is finished.

    Attributes:
        key: Its `continuation_key`.
        run_id: Its MLflow run.
        epochs: Its `training.epochs`; patience may have ended it earlier.
        why_not: Why a training with more epochs begins at epoch 1; empty when it continues.
    """

    key: str
    run_id: str
    epochs: int
    why_not: str


def find(key: str) -> Finished | None:
    """Return the finished training with a `continuation_key`, if one is known."""
    return read(_folder(key) / RECORD)


def read(record: Path) -> Finished | None:
    """Return a finished training by its record; None without one."""
    return Finished(**json.loads(record.read_text())) if record.is_file() else None


def write(record: Path, training: Finished) -> None:
    """Write the record of a finished training."""
    with whole_file(record) as partial:  # a new file: the former may have a second name
        partial.write_text(json.dumps(asdict(training)))


def keep(state: Path) -> None:
    """Keep what a training with more epochs needs of a finished one.

    A kill leaves either what was kept before, or all of it; the state is not changed. Of two
    trainings with the same key, the one with more epochs is kept.

    Args:
        state: The folder of the training; without a record nothing is kept.
    """
    training = read(state / RECORD)
    if training is None:
        return
    with _lock():
        known = find(training.key)
        if known and known.epochs > training.epochs:
            return
        kept = () if training.why_not else (paths.EPOCHS, paths.BATCH_SIZE)
        files = [file for pattern in kept for file in state.glob(pattern)]
        with whole_folder(_folder(training.key)) as new:
            for file in (state / RECORD, *files):
                _link(file, new / file.name)
        _remove_oldest()


def take(key: str, epochs: int, state: Path) -> Finished | None:
    """Give a new training the last epochs of a finished one, where that is exact.

    Args:
        key: The `continuation_key` of both.
        epochs: `training.epochs` of the new one.
        state: The folder of the new one.

    Returns:
        The finished training; None if none with fewer epochs is known.
    """
    with _lock():
        known = find(key)
        if known is None or known.epochs >= epochs:
            return None
        if not known.why_not:
            for file in _folder(key).iterdir():
                _link(file, state / (CONTINUED if file.name == RECORD else file.name))
        return known


def _link(file: Path, name: Path) -> None:
    """Give a file a second name: no file of an epoch is ever changed, so no copy is needed."""
    try:
        os.link(file, name)
    except OSError:  # this file system has no links
        shutil.copyfile(file, name)


def _remove_oldest() -> None:
    """Remove the oldest trainings while all together are too large, or too many."""
    newest_first = sorted(
        _folder("").glob(f"*/{RECORD}"), key=lambda record: record.stat().st_mtime, reverse=True
    )
    total = 0
    for number, record in enumerate(newest_first):
        total += sum(file.stat().st_size for file in record.parent.iterdir())
        if number and (total > LARGEST or number >= MOST):
            shutil.rmtree(record.parent)


def _lock() -> FileLock:
    """Return the lock of all finished trainings; jobs of a sweep may run at the same time."""
    _folder("").mkdir(parents=True, exist_ok=True)
    return FileLock(_folder("").with_suffix(".lock"))


def _folder(key: str) -> Path:
    return paths.project() / "runs" / "finished" / key
