"""Other datasets through the whole pipeline."""

import re
from pathlib import Path

import pytest

from conftest import SHRUNK, Project, new_project


def test_three_classes_without_splits_go_through_the_whole_pipeline(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path
):
    project = new_project(
        tmp_path_factory.mktemp("three"), *SHRUNK, "dataset=folder", "dataset.name=shapes",
        f"dataset.path={shapes}", "optimizer.learning_rate=0.01", "training.epochs=12",
    )  # fmt: skip
    project.run("dvc", "repro")
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
    """The steps of the README."""
    project: Project = new_project(tmp_path_factory.mktemp("own"))
    project.run("rm", "data.dvc")
    project.run("git", "rm", "-r", "--quiet", "--cached", "data")
    project.run("rm", "-r", "data")
    project.commit()
    project.run("cp", "-r", str(shapes), "data")
    project.run("dvc", "add", "data")
    params = project.command(
        "config", *SHRUNK, "dataset.name=shapes", "dataset.positive_class=null", "training.epochs=1"
    )
    (project.folder / "params.yaml").write_text(params)
    project.commit()
    project.run("dvc", "repro", "prepare")
    assert project.read("build/split/split.json")["classes"] == ["blue, dark", "green", "red"]
    assert project.run("git", "ls-files", "data") == ""
    assert project.run("git", "check-ignore", "data").strip() == "data"
