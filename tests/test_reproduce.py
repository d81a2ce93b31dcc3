"""A run is repeated from what MLflow recorded."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Project
from image_classifier.commands.reproduce import check_out, compare
from image_classifier.tracking import runs
from image_classifier.tracking.runs import Record


def test_a_run_is_repeated_to_the_last_bit(project: Project):
    run_id = project.read("build/train/run.json")["run_id"]
    output = project.command("reproduce", run_id)
    assert "Note:" not in output  # files that DVC writes are not uncommitted changes
    assert "weights  equal" in output
    assert re.search(r"metrics  (\d+) of \1 equal to the last bit", output)
    assert "DIFFERENT" not in output


def test_a_difference_is_reported(capsys: pytest.CaptureFixture):
    first = Record(
        {"weights_sha256": "a"}, {"val_loss": {1: 0.5, 2: 0.25}, "fit_seconds": {0: 9}}, ""
    )
    assert compare(first, first)
    assert compare(first, replace(first, metrics=first.metrics | {"fit_seconds": {0: 1}}))
    longer = first.metrics | {"system/cpu_utilization_percentage": {0: 50, 1: 90}}
    assert compare(replace(first, metrics=longer), first)
    assert not compare(first, replace(first, tags={"weights_sha256": "b"}))
    assert "weights  DIFFERENT" in capsys.readouterr().out
    assert not compare(first, replace(first, metrics={"val_loss": {1: 0.5, 2: 0.2500001}}))
    assert not compare(first, replace(first, metrics={"val_loss": {1: 0.5}}))
    assert "val_loss  DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize("subfolder", [".", "models"])
def test_the_commit_is_found_wherever_the_project_is_in_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str
):
    repository = tmp_path / "repository"
    (repository / subfolder).mkdir(parents=True)
    (repository / subfolder / "dvc.yaml").write_text("first")
    git = Project(repository)
    git.run("git", "init", "--quiet")
    git.commit()
    commit = git.run("git", "rev-parse", "HEAD").strip()
    (repository / subfolder / "dvc.yaml").write_text("second")
    git.commit()
    git.run("git", "worktree", "add", "--quiet", str(tmp_path / "worktree"))
    for place in (repository, tmp_path / "worktree"):
        monkeypatch.chdir(place / subfolder)
        assert runs.provenance()["git.uncommitted_changes"] == "false"
        copy = check_out(commit, tmp_path / f"clone of {place.name}")
        assert (copy / "dvc.yaml").read_text() == "first"
    Path("params.yaml").touch()  # stored with the run
    assert runs.provenance()["git.uncommitted_changes"] == "false"
    Path("own.py").touch()
    assert runs.provenance()["git.uncommitted_changes"] == "true"


def test_an_unknown_run_is_refused(project: Project):
    output = project.command("reproduce", "0" * 32, code=1)
    assert "is not in sqlite:" in output
    assert "Traceback" not in output
