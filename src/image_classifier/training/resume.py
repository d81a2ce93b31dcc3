"""The folder in which a training keeps what it needs to continue after it was killed.

DVC deletes the outputs of a stage before it runs the stage, so this folder is elsewhere:
runs/unfinished/KEY, where KEY identifies the training. It is removed when the model is registered;
`finished` then keeps what a training with more epochs needs of it.
"""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.project import paths
from image_classifier.training import finished, identity
from image_classifier.training.finished import Finished

# what describes the data of a training, while other stages may already have run again
COPIED = (paths.IMAGE_GRID, paths.MANIFEST, paths.SKIPPED, paths.DUPLICATES, paths.FETCHED)


@dataclass(frozen=True)
class ResumeState:
    """A training that has begun.

    Attributes:
        key: See `training_key`.
        job_key: See `identity.job_key`.
        folder: Contains the files of its epochs.
        training_id: Finds its MLflow run.
        recipe_key: See `identity.recipe_key`.
        continuation_key: See `identity.continuation_key`.
    """

    key: str
    job_key: str
    folder: Path
    training_id: str
    recipe_key: str = ""
    continuation_key: str = ""

    @property
    def data_files(self) -> list[Path]:
        """Copies of the files that described the data when the training began."""
        copies = [self.folder / "data" / path.name for path in COPIED]
        return [path for path in copies if path.is_file()]

    def mark_finished(self, record: Path) -> None:
        """Keep a copy of the stage's run.json, by which dvc.lock shows that DVC has saved it."""
        shutil.copyfile(record, self.folder / paths.RUN)

    @property
    def continued(self) -> Finished | None:
        """The finished training with fewer epochs whose epochs came first, if there is one."""
        return finished.read(self.folder / finished.CONTINUED)

    def mark_trained(self, run_id: str, epochs: int, why_not: str) -> None:
        """Write what `finish` keeps; see `Finished`."""
        training = Finished(self.continuation_key, run_id, epochs, why_not)
        finished.write(self.folder / finished.RECORD, training)

    def finish(self) -> None:
        """Remove the folder of a registered training; keep what more epochs need."""
        _finish(self.folder)

    def discard(self) -> None:
        """Remove the folder: nothing is left to continue."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def claim(
    config: Config, dataset: PreparedDataset, start_sha256: str = ""
) -> Iterator[ResumeState]:
    """Yield a training with these settings and images: a new one, or one that was interrupted.

    It is a new one also when DVC has saved the outputs of the last one: `dvc repro --force`.

    A new one gets the epochs of a finished training that differs only in having fewer, where that
    changes nothing in the result. Otherwise a line says why not.

    Only one process works on it at a time: others wait. For `start_sha256` see `identity.job_key`.
    """
    job_key = identity.job_key(config, dataset, start_sha256)
    key = identity.training_key(job_key, config.training)
    recipe_key = identity.recipe_key(config, dataset, start_sha256)
    continuation_key = identity.continuation_key(config, dataset, start_sha256)
    folder = _folder(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("Another process runs the same training: waiting for it to end.", flush=True)
        lock.acquire()
    try:
        if _saved_by_dvc(folder):
            _begin(folder)
        elif not (folder / "id").is_file():
            _begin(folder, continuation_key, config.training.epochs)
        training_id = (folder / "id").read_text()
        yield ResumeState(key, job_key, folder, training_id, recipe_key, continuation_key)
    finally:
        lock.release()


def finish(key: str) -> None:
    """Remove the folder of a registered training, unless a process works on it.

    What a training with more epochs needs of it is kept.
    """
    if _folder(key).is_dir():
        with suppress(Timeout), FileLock(_folder(key).with_suffix(".lock"), timeout=0):
            _finish(_folder(key))


def _finish(folder: Path) -> None:
    finished.keep(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, continuation_key: str = "", epochs: int = 0) -> None:
    """Make the folder of a new training; with a key, it may continue one with fewer epochs."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    for path in COPIED:
        if path.is_file():
            shutil.copyfile(path, folder / "data" / path.name)
    known = finished.take(continuation_key, epochs, folder) if continuation_key else None
    if known and known.why_not:
        print(
            f"MLflow run {known.run_id} is the same training with {known.epochs} epochs, but this "
            f"one begins at epoch 1: {known.why_not}."
        )
    (folder / "id").write_text(uuid.uuid4().hex)  # last: it marks the folder as complete


def _saved_by_dvc(folder: Path) -> bool:
    """Return whether dvc.lock lists the run.json of this training: then a new one is wanted."""
    record, lock = folder / paths.RUN, Path("dvc.lock")
    if not (record.is_file() and lock.is_file()):
        return False
    outs = OmegaConf.select(OmegaConf.load(lock), "stages.train.outs", default=[])
    digest = hashlib.md5(record.read_bytes()).hexdigest()
    return {"path": str(paths.TRAIN / paths.RUN), "md5": digest} in [
        {key: out.get(key) for key in ("path", "md5")} for out in outs
    ]


def _folder(key: str) -> Path:
    return paths.project() / "runs" / "unfinished" / key
