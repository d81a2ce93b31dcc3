"""Other datasets through the whole pipeline."""

import hashlib
import re
from pathlib import Path

import mlflow
import pytest

from conftest import SHRUNK, Project, new_project, small_backbone


@pytest.mark.slow
def test_two_lines_from_a_folder_of_three_classes_to_a_champion(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path
):
    """The README's "Bring your own images"."""
    project = new_project(tmp_path_factory.mktemp("three"))
    for file, before, after in (
        ("model/pretrained.yaml", "height: 224", "height: 48"),
        ("model/pretrained.yaml", "width: 224", "width: 48"),
        ("training/transfer.yaml", "epochs: 30", "epochs: 10"),
        ("training/transfer.yaml", "fine_tune: top", "fine_tune: all"),
        ("training/early_stopping.yaml", "batch_size: 32", "batch_size: 8"),
        # the backbone of this test has learnt nothing yet
        (
            "training/early_stopping.yaml",
            "fine_tune_learning_rate: 0.0004",
            "fine_tune_learning_rate: 0.02",
        ),
        ("optimizer/adamw_head.yaml", "learning_rate: 0.003", "learning_rate: 0.03"),
        ("promotion/default.yaml", "minimum_accuracy: 0.85", "minimum_accuracy: 0"),
        ("promotion/default.yaml", "minimum_recall: 0.25", "minimum_recall: 0"),
    ):
        path = project.folder / "conf" / file
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
    output = project.command("dataset", str(shapes), "--name", "shapes")
    assert "of 3 classes" in output
    config = (project.folder / "conf/config.yaml").read_text()
    assert "  - dataset: shapes " in config
    project.commit()
    backbone = tmp_path_factory.mktemp("weights") / "backbone.keras"
    small_backbone(backbone, 48, 48)
    choice = ["-S", "model=pretrained", "-S", f"model.backbone={backbone}"]
    output = project.run("dvc", "exp", "run", *choice)
    assert "head: epochs 1 to 10." in output
    assert "training.fine_tune_epochs=auto: 20 epochs." in output
    card = (project.folder / "build/evaluate/model_card.md").read_text()
    digest = hashlib.sha256(backbone.read_bytes()).hexdigest()
    assert f"backbone `{backbone}`" in card
    assert digest in card
    assert "license of the weights: not known (set `model.license`)" in card
    version = mlflow.MlflowClient(project.store).get_model_version("shapes-classifier", "1")
    assert version.tags["backbone_sha256"] == digest
    metrics = project.read("build/evaluate/metrics.json")
    assert {"accuracy", "balanced_accuracy", "f1_macro", "roc_auc_macro"} <= set(metrics)
    assert metrics["accuracy"] > 0.6  # chance is a third
    output = project.command("predict", str(shapes / "blue, dark"))
    lines = re.findall(r"^(?:blue, dark|green|red) +[01]\.\d+ +[01]\.\d+ +[01]\.\d+ ", output, re.M)
    assert len(lines) == 12
    assert "shapes-classifier@champion" in project.command("summary")


def test_a_users_images_replace_the_embedded_ones(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path
):
    """A dataset in data/ that DVC tracks."""
    project: Project = new_project(tmp_path_factory.mktemp("own"))
    project.run("rm", "data.dvc")
    project.run("git", "rm", "-r", "--quiet", "--cached", "data")
    project.run("rm", "-r", "data")
    project.commit()
    project.run("cp", "-r", str(shapes), "data")
    project.run("dvc", "add", "data")
    chosen = ["dataset.name=shapes", "dataset.positive_class=null", "training.epochs=1"]
    project.write_params(*SHRUNK, *chosen)
    project.commit()
    project.run("dvc", "repro", "prepare")
    assert project.read("build/split/split.json")["classes"] == ["blue, dark", "green", "red"]
    assert project.run("git", "ls-files", "data") == ""
    assert project.run("git", "check-ignore", "data").strip() == "data"
