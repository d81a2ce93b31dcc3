"""Branches that both ran the pipeline, and the markers that git leaves in files it cannot merge."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, SHRUNK, Project, copy_of, new_project
from image_classifier.config import compose
from image_classifier.data.corrections import apply_corrections
from image_classifier.errors import InputError
from image_classifier.project.records import read_record


def marked(ours: str, theirs: str) -> str:
    return f"<<<<<<< HEAD\n{ours}\n=======\n{theirs}\n>>>>>>> other\n"


def change(project: Project, branch: str, before: str, after: str) -> None:
    """Commit a branch with another setting, and the files that the pipeline would write with it."""
    project.run("git", "checkout", "--quiet", "-b", branch, "main")
    for name in ("params.yaml", "dvc.lock"):
        file = project.folder / name
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
    for file in project.folder.glob("build/*/metrics.json"):
        file.write_text(f'{{"accuracy": {len(branch)}}}\n')
    project.commit()


def test_the_pipeline_runs_after_a_merge_of_two_branches_that_ran_it(
    project: Project, tmp_path: Path
):
    """The commands in CONTRIBUTING.md."""
    project = copy_of(project, tmp_path / "project")
    project.run("git", "branch", "--move", "main")
    change(project, "a", "learning_rate: 0.005", "learning_rate: 0.002")
    change(project, "second", "minimum_accuracy: 0", "minimum_accuracy: 0.01")
    project.run("git", "merge", "a", code=1)
    conflicts = project.run("git", "diff", "--name-only", "--diff-filter=U").split()
    assert conflicts == ["build/evaluate/metrics.json", "build/train/metrics.json", "dvc.lock"]
    for name in conflicts:
        assert "<<<<" not in (project.folder / name).read_text()
    settings = yaml.safe_load((project.folder / "params.yaml").read_text())
    assert settings["optimizer"]["learning_rate"] == 0.002
    assert settings["promotion"]["minimum_accuracy"] == 0.01
    output = project.run("dvc", "status")
    assert "train:" in output  # its setting is the one of the other branch
    assert "promote:" in output
    assert "prepare:" not in output
    project.run("dvc", "repro", "prepare")
    project.commit()
    assert project.run("git", "diff", "--name-only", "--diff-filter=U") == ""


def test_conflict_markers_in_params_are_named(empty_project: Path):
    text = (ROOT / "params.yaml").read_text()
    epochs = next(line for line in text.splitlines() if line.startswith("  epochs: "))
    Path("params.yaml").write_text(text.replace(epochs + "\n", marked(epochs, "  epochs: 1")))
    with pytest.raises(InputError) as caught:
        compose.load()
    message = str(caught.value)
    assert message.startswith("params.yaml has merge conflict markers")
    assert "`git checkout --ours params.yaml`, or `--theirs`. Or take the settings" in message
    assert "`make params`" in message
    assert "\n" not in message


@pytest.mark.parametrize("command", ["config", "train", "summary"])
def test_conflict_markers_in_conf_are_named(
    command: str, project: Project, tmp_path_factory: pytest.TempPathFactory
):
    project = copy_of(project, tmp_path_factory.mktemp("marked") / "project", ".dvc", "mlartifacts")
    file = project.folder / "conf/model/compact.yaml"
    file.write_text(file.read_text() + marked("a: 1", "a: 2"))
    output = project.command(command, code=1)
    line = output.splitlines()[-1]
    assert f"{command}: conf/model/compact.yaml has merge conflict markers" in line
    assert "`git checkout --ours conf/model/compact.yaml`" in line
    assert "Traceback" not in output
    file.write_text("a: [")
    line = project.command(command, code=1).splitlines()[-1]
    assert "conf/model/compact.yaml cannot be read as YAML (line " in line


def test_conflict_markers_in_metrics_and_corrections_are_named(empty_project: Path):
    metrics = Path("build/evaluate/metrics.json")
    metrics.parent.mkdir(parents=True)
    metrics.write_text("{\n" + marked('"accuracy": 1', '"accuracy": 0') + "}\n")
    with pytest.raises(
        InputError, match=r"metrics.json has merge conflict markers .*--theirs.*`dvc repro`\.$"
    ):
        read_record(metrics, "evaluate")
    corrections = Path("corrections.csv")
    corrections.write_text("path,label,reason\n" + marked("a.png,cat,x", "a.png,dog,x"))
    with pytest.raises(
        InputError, match=r"corrections=corrections\.csv: corrections\.csv has merge"
    ):
        apply_corrections([], "corrections.csv", corrections)


def params_of(project: Project, *overrides: str) -> str:
    """Run `image-classifier config` as `make params` does; return what it says beside."""
    with (project.folder / "params.yaml.new").open("w") as file:
        result = subprocess.run(
            [sys.executable, "-m", "image_classifier", "config", *overrides], cwd=project.folder,
            env=project.environment, stdout=file, stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    (project.folder / "params.yaml.new").rename(project.folder / "params.yaml")
    return result.stderr


def test_make_params_says_which_settings_it_changes(tmp_path: Path):
    external = ["+external.north.path=north"]
    project = new_project(tmp_path / "project", *SHRUNK, "optimizer.learning_rate=0.5", *external)
    said = params_of(project).splitlines()
    assert said[0] == "These settings of params.yaml change:"
    assert "  optimizer.learning_rate: 0.5 → 0.005" in said
    assert '  external.north.path: "north" → dropped' in said
    assert "  training.epochs: 2 → 12" in said
    assert [line.split(":")[0] for line in said].count("  training.epochs") == 1
    assert params_of(project) == ""
    params = project.folder / "params.yaml"
    params.write_text(marked("a: 1", "a: 2"))
    said = params_of(project)
    assert said == "params.yaml has merge conflict markers: its settings are ignored.\n"
    params.write_text("a: [")
    assert params_of(project) == "params.yaml cannot be read: its settings are ignored.\n"
    assert params_of(project) == ""
