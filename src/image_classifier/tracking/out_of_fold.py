"""Predictions of models that were not trained on the image, collected from MLflow."""

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
from mlflow.entities import Run

from image_classifier.evaluation.label_errors import Unseen
from image_classifier.evaluation.predictions import Predictions
from image_classifier.project import paths
from image_classifier.tracking import repeats, runs

if TYPE_CHECKING:
    from image_classifier.data.dataset import PreparedDataset

METRIC = "validation_balanced_accuracy"  # a training that has it has made its predictions


def unseen_predictions(
    run_id: str, dataset: "PreparedDataset", validation: Predictions, test: Predictions
) -> Unseen:
    """Return what models that were not trained on an image predict for it.

    From the folds of the same recipe, averaged over seeds; where there is none, from the model
    itself, for its validation and test images. Images that the model or a fold inherits from the
    training it started from (`training.start_from`) are left out.

    Args:
        run_id: The run of the evaluated model.
        dataset: The prepared images.
        validation: The predictions of the model for its validation images.
        test: The same for its test images.
    """
    folds = [
        run
        for run in repeats.runs_of_recipe(run_id, METRIC)
        if run.data.params["training.fold"] != "None" and runs.has_predictions(original_of(run))
    ]
    classes, _, by_path = out_of_fold(folds)
    columns = [classes.index(name) for name in dataset.classes] if folds else []
    known = {
        number: np.array(by_path[row.path])[:, columns]
        for number, row in enumerate(dataset.rows)
        if row.path in by_path
    }
    for predictions in (validation, test):
        for row, values in zip(predictions.rows, predictions.probabilities, strict=True):
            known.setdefault(int(row), values[None])
    inherited = inherited_by(run_id)
    rows = [row for row in sorted(known) if dataset.rows[row].sha256 not in inherited]
    return Unseen(
        np.array(rows, np.int64),
        np.array([known[row].mean(axis=0) for row in rows]).reshape(-1, len(dataset.classes)),
        np.array([len(known[row]) for row in rows], np.int64),
        bool(folds),
    )


def inherited_by(run_id: str) -> set[str]:
    """Return the SHA-256 of the images that the trainings behind the first weights have seen."""
    started_from = runs.tags_of(run_id).get(runs.STARTED_FROM)
    if not started_from:
        return set()
    return {row.sha256 for row in runs.seen_by(started_from) if row.split != "test"}


def original_of(run: Run) -> str:
    """Return the run with the files of a training; a copy in a sweep has none."""
    return str(run.data.tags.get(runs.REUSED, run.info.run_id))


def out_of_fold(
    jobs: Sequence[Run],
) -> tuple[list[str], dict[str, str], dict[str, list[list[float]]]]:
    """Return the classes, and by image its class and the probabilities that each job predicts."""
    client = mlflow.MlflowClient()
    classes: list[str] = []
    actual: dict[str, str] = {}
    probabilities: dict[str, list[list[float]]] = {}
    for job in jobs:
        with tempfile.TemporaryDirectory() as folder:
            name = f"training/{paths.VALIDATION_PREDICTIONS}"
            file = Path(client.download_artifacts(original_of(job), name, folder))
            with file.open(newline="") as opened:
                for row in csv.DictReader(opened):
                    classes = [name[2:] for name in row if name.startswith("p_")]
                    actual[row["path"]] = row["actual"]
                    values = [float(row[f"p_{name}"]) for name in classes]
                    probabilities.setdefault(row["path"], []).append(values)
    return classes, actual, probabilities
