"""Where the stages write their files, relative to the project's folder, as in dvc.yaml."""

import os
from pathlib import Path

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
SPLIT = BUILD / "split" / "split.json"

IMAGES = BUILD / "prepare" / "images.npy"
IMAGE_GRID = BUILD / "prepare" / "image_grid.png"
PREPARED = BUILD / "prepare" / "prepared.json"

TRAIN = BUILD / "train"
EVALUATE = BUILD / "evaluate"
PREDICTIONS = EVALUATE / "predictions.csv"
ROC_POINTS = EVALUATE / "roc.csv"
REPORT = EVALUATE / "report.json"
MODEL_CARD = EVALUATE / "model_card.md"
EVALUATED = EVALUATE / "evaluated.json"

DECISION = BUILD / "promote" / "decision.json"

# inside the folder of one training: build/train, or a folder below runs/
MODEL = "model"
RUN = "run.json"
METRICS = "metrics.json"
HISTORY = "history.csv"
SUMMARY = "model_summary.txt"
CURVES = "learning_curves.png"

# inside the folder of a training that may continue
EPOCHS = f"epoch-{'[0-9]' * 6}.npz"  # not the name of a file that is still being written
BATCH_SIZE = "batch_size"


def project() -> Path:
    """Return the project's folder, where MLflow's store and `runs/` are.

    `dvc exp run --queue` runs in a temporary copy of the project, and sets DVC_ROOT to the folder
    of the original.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())
