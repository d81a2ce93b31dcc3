"""Cross-validation through the real command line: folds, spread, predictions, model card."""

import csv
from pathlib import Path

import mlflow
import numpy as np

from conftest import ROOT, SHRUNK, Project, children, copy_of, parent_of
from image_classifier.config import compose
from image_classifier.data.manifest import read_manifest


def test_one_command_cross_validates_and_card_and_mlflow_have_the_spread(
    project: Project, tmp_path: Path
):
    assert compose.config_of().split.folds == 5  # as many as search=folds goes through
    assert "training.fold: range(5)" in (ROOT / "conf/search/folds.yaml").read_text()
    copy = copy_of(project, tmp_path / "project")
    params = (copy.folder / "params.yaml").read_text()
    changed = params.replace("folds: 5", "folds: 2").replace("  epochs: 2\n", "  epochs: 1\n")
    (copy.folder / "params.yaml").write_text(changed)
    copy.stages("split", "prepare", "train --stage")
    shrunk = [*SHRUNK, "split.folds=2", "training.epochs=1"]
    output = copy.command("train", "--multirun", *shrunk, "search=folds", "training.fold=range(2)")
    assert "4 jobs finished, 0 failed" in output
    assert "Mean of these settings: best_val_loss" in output
    client, parent = mlflow.MlflowClient(copy.store), parent_of(output)
    jobs = children(copy, parent)
    folds = {(job.data.params["training.fold"], job.data.params["training.seed"]) for job in jobs}
    assert folds == {(str(fold), str(seed)) for fold in range(2) for seed in range(2)}
    assert not any(job.outputs.model_outputs for job in jobs)

    # every image outside the test split is predicted, by models that have not seen its group
    file = client.download_artifacts(parent, "sweep/out_of_fold.csv", str(tmp_path))
    with Path(file).open(newline="") as opened:
        predicted = {row["path"]: row for row in csv.DictReader(opened)}
    rows = read_manifest(copy.folder / "build/split/manifest.csv")
    assert set(predicted) == {row.path for row in rows if row.split != "test"}
    assert {row.path: row.label for row in rows}.items() >= {
        path: row["actual"] for path, row in predicted.items()
    }.items()
    for job in jobs:
        name = "training/validation_predictions.csv"
        file = client.download_artifacts(job.info.run_id, name, str(tmp_path))
        with Path(file).open(newline="") as opened:
            seen = {row["path"] for row in csv.DictReader(opened)}
        fold = int(job.data.params["training.fold"])
        assert seen == {row.path for row in rows if row.fold == fold}

    of_folds = [
        np.mean([
            job.data.metrics["best_val_loss"]
            for job in jobs
            if job.data.params["training.fold"] == str(fold)
        ])
        for fold in range(2)
    ]  # fmt: skip
    sweep = client.get_run(parent).data
    assert np.isclose(sweep.metrics["best_val_loss_mean"], np.mean(of_folds))
    assert np.isclose(sweep.metrics["best_val_loss_deviation"], np.std(of_folds, ddof=1))
    assert sweep.metrics["best_val_loss_low"] < np.mean(of_folds)
    page = sweep.tags["mlflow.note.content"]
    assert "2 folds, 2 seeds" in page
    assert f"{len(predicted)} images" in page

    # the pipeline's model has the same settings, without a fold
    card = (copy.folder / "build/evaluate/model_card.md").read_text()
    assert "No repeat of this training" in card
    copy.command("evaluate")
    card = (copy.folder / "build/evaluate/model_card.md").read_text()
    assert "Cross-validation with these settings, balanced accuracy" in card
    assert "2 folds, 2 seeds" in card

    # and all labels are checked: test images by the model, the others by the folds
    checked = copy.read("build/evaluate/report.json")["label_errors"]
    assert checked["by_folds"]
    assert checked["images"] == checked["of"] == len(rows)
    assert {entry["predictions"] for entry in checked["first"]} <= {1, 2}

    # a wrong fold is refused, before anything is trained
    assert "the folds are 0 to 1" in copy.command("train", *shrunk, "training.fold=2", code=1)
