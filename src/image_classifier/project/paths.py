"""Where the stages write their files, as in dvc.yaml, and what the paths in settings mean."""

import os
from pathlib import Path
from typing import Literal

from image_classifier.errors import InputError

BUILD = Path("build")

RAW = BUILD / "raw"
LABELS = BUILD / "labels.csv"
UNUSED = BUILD / "not_used.csv"
FETCHED = BUILD / "fetch.json"

EXTERNAL = BUILD / "external"
EXTERNAL_RECORD = EXTERNAL / "external.json"

MANIFEST = BUILD / "split" / "manifest.csv"
SKIPPED = BUILD / "split" / "skipped.csv"
DUPLICATES = BUILD / "split" / "duplicates.csv"
CONTRADICTIONS = BUILD / "split" / "contradictions.csv"
FINDINGS = BUILD / "split" / "findings.csv"
SPLIT = BUILD / "split" / "split.json"

IMAGES = BUILD / "prepare" / "images.npy"
IMAGE_GRID = BUILD / "prepare" / "image_grid.png"
PREPARED = BUILD / "prepare" / "prepared.json"

TRAIN = BUILD / "train"
EVALUATE = BUILD / "evaluate"
PREDICTIONS = EVALUATE / "predictions.csv"
SUSPECTED_LABELS = EVALUATE / "suspected_labels.csv"
ROC_POINTS = EVALUATE / "roc.csv"
REPORT = EVALUATE / "report.json"
MODEL_CARD = EVALUATE / "model_card.md"
REPORT_PAGE = EVALUATE / "report.html"
ALL_FINDINGS = EVALUATE / "findings.csv"  # those of split, and suspected labels
EVALUATED = EVALUATE / "evaluated.json"

DECISION = BUILD / "promote" / "decision.json"

# inside the folder of one training: build/train, or a folder below runs/
MODEL = "model"
RUN = "run.json"
METRICS = "metrics.json"
HISTORY = "history.csv"
SUMMARY = "model_summary.txt"
CURVES = "learning_curves.png"
VALIDATION_PREDICTIONS = "validation_predictions.csv"

OUT_OF_FOLD = "out_of_fold.csv"  # inside the folder of a sweep

# inside the folder of a training that may continue
EPOCHS = f"epoch-{'[0-9]' * 6}.npz"  # not the name of a file that is still being written
BATCH_SIZE = "batch_size"


def project() -> Path:
    """Return the project's folder, where MLflow's store and `runs/` are.

    `dvc exp run --queue` runs in a temporary copy of the project, and sets DVC_ROOT to the folder
    of the original.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def sqlite_address(file: Path) -> str:
    """Return the SQLAlchemy address of a SQLite file.

    In an address, `?` begins the options, and `%3F` is a question mark. For an address that begins
    with `sqlite:///`, MLflow makes the folder of this name as it is written, with the `%`.
    """
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{file}" if quoted == str(file) else f"sqlite+pysqlite:///{quoted}"


def left_behind() -> list[str]:
    """Return the source files that the project's folder has, and this temporary copy lacks."""
    known = (path.relative_to(project()) for path in sorted(project().glob("src/**/*.py")))
    return [str(path) for path in known if not path.exists()]


def expanded(text: str) -> Path:
    """Return a path in which `~` is the home folder; also where no shell has replaced it."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path fails for an unknown user


def is_inside(path: Path) -> bool:
    """Return whether a path is relative, and does not lead out of the folder in which it begins."""
    return not path.is_absolute() and Path(os.path.normpath(path)).parts[:1] != ("..",)


def located(setting: str, value: str, kind: Literal["file", "folder"]) -> Path:
    """Return the file or folder that a setting names.

    A relative path begins in the project's folder. In a queued experiment, what the temporary copy
    of the project contains is taken from there: it is the version that belongs to the experiment.

    Args:
        setting: The name of the setting, for the message.
        value: Its value.
        kind: What it must name.

    Raises:
        InputError: there is no such file or folder.
    """
    exists = Path.is_file if kind == "file" else Path.is_dir
    path = expanded(value)
    if is_inside(path) and exists(path):
        return path
    place = project() / path
    if not exists(place):
        raise InputError(f"{setting}={value}: no such {kind} ({os.path.normpath(place)}).")
    return place
