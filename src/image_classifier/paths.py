"""Where the stages leave their files, relative to the project's folder; dvc.yaml names the same."""

import os
from pathlib import Path

BUILD = Path("build")

RAW = BUILD / "raw"
FETCHED = BUILD / "fetch.json"

EXTERNAL = BUILD / "external"
EXTERNAL_RECORD = EXTERNAL / "external.json"

MANIFEST = BUILD / "split" / "manifest.csv"
LEFT_OUT = BUILD / "split" / "left_out.csv"
COPIES = BUILD / "split" / "copies.csv"
SPLIT = BUILD / "split" / "split.json"

IMAGES = BUILD / "prepare" / "images.npy"
PICTURE_GRID = BUILD / "prepare" / "picture_grid.png"
PREPARED = BUILD / "prepare" / "prepared.json"

TRAIN = BUILD / "train"
EVALUATE = BUILD / "evaluate"
PREDICTIONS = EVALUATE / "predictions.csv"
ROC_POINTS = EVALUATE / "roc.csv"
REPORT = EVALUATE / "report.json"
MODEL_CARD = EVALUATE / "model_card.md"
EVALUATED = EVALUATE / "evaluated.json"

DECISION = BUILD / "promote" / "decision.json"

# inside the folder of one training run, be it build/train or runs/…
MODEL = "model"
RUN = "run.json"
METRICS = "metrics.json"
HISTORY = "history.csv"
SUMMARY = "model_summary.txt"
CURVES = "learning_curves.png"


def project() -> Path:
    """Return the project's folder: for runs, which outlive the copy of it that they may run in.

    `dvc exp run --queue` runs in a copy of the project; DVC_ROOT is the original's folder there.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())
