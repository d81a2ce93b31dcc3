"""Where a training keeps what it needs to go on after it was killed.

DVC deletes a stage's outputs before it runs the stage again, so this lies in a folder of its own,
runs/unfinished, under a name that stands for all that decides the weights.
"""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf
from filelock import FileLock, Timeout

from image_classifier import paths
from image_classifier.data.dataset import PreparedDataset
from image_classifier.schema import Config
from image_classifier.tracking import runs
from image_classifier.training import augmentation, batches, devices, models

COPIED = (paths.PICTURE_GRID, paths.MANIFEST, paths.LEFT_OUT, paths.COPIES, paths.FETCHED)


@dataclass(frozen=True)
class Unfinished:
    """A training that has begun: its name, its folder, and the id that its MLflow run goes by."""

    key: str
    folder: Path
    training_id: str

    @property
    def data_files(self) -> list[Path]:
        """What described the data when the training began; the stages may have run since."""
        return [self.folder / "data" / path.name for path in COPIED if path.is_file()]


def key_of(config: Config, dataset: PreparedDataset) -> str:
    """Return a digest of all that decides the weights to the last bit: settings, data and code."""
    digest = hashlib.sha256()
    job = runs.job_key(config, dataset)
    digest.update(f"{job} {tf.__version__} {keras.__version__} {devices.threads()}".encode())
    for module in (augmentation, batches, models):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:32]


@contextmanager
def claim(key: str) -> Iterator[Unfinished]:
    """Yield the training of that name, begun now or before; only one process has it at a time."""
    folder = _folder(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("The same training runs in another process: waiting for it to end.", flush=True)
        lock.acquire()
    try:
        if not (folder / "id").is_file() or in_dvc(folder):
            begin(folder)
        yield Unfinished(key, folder, (folder / "id").read_text())
    finally:
        lock.release()


def begin(folder: Path) -> None:
    """Make the folder of a training, with copies of what describes its data."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    for path in COPIED:
        if path.is_file():
            shutil.copyfile(path, folder / "data" / path.name)
    (folder / "id").write_text(uuid.uuid4().hex)  # last: with it the folder is whole


def in_dvc(folder: Path) -> bool:
    """Return whether DVC has the outputs of a training, so that this one is to be another.

    The kept copy of run.json tells: its MLflow run makes it one of its kind.
    """
    record, lock = folder / paths.RUN, Path("dvc.lock")
    if not (record.is_file() and lock.is_file()):
        return False
    return hashlib.md5(record.read_bytes()).hexdigest() in lock.read_text()


def discard(key: str) -> None:
    """Delete what a training kept, unless a process works on it."""
    if _folder(key).is_dir():
        with suppress(Timeout), FileLock(_folder(key).with_suffix(".lock"), timeout=0):
            shutil.rmtree(_folder(key))


def _folder(key: str) -> Path:
    return paths.project() / "runs" / "unfinished" / key
