"""Without git, without a commit, and with files that git does not track."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Project, copy_of, new_project
from image_classifier.tracking import runs


def installed(project: Project) -> Project:
    """Tell make that everything is installed."""
    (project.folder / ".venv/bin").mkdir(parents=True)
    (project.folder / ".venv/bin/.installed").touch()
    return project


def test_make_run_works_in_an_unpacked_archive(project: Project, tmp_path: Path):
    project = installed(copy_of(project, tmp_path / "project", ".git"))
    project.environment["GIT_CEILING_DIRECTORIES"] = str(tmp_path)
    output = project.run("make", "run")
    assert "Data and pipelines are up to date." in output
    assert "models:/synthetic-xray-classifier@champion" in output
    (line,) = [line for line in output.splitlines() if line.startswith("No git repository here")]
    # the commands of this line make experiments possible
    project.run("bash", "-c", line.split("For dvc exp: ")[1])
    assert "No git repository" not in project.run("make", "run")
    project.run("dvc", "exp", "run", "fetch")


def test_make_run_works_where_git_is_not_installed(project: Project, tmp_path: Path):
    project = installed(copy_of(project, tmp_path / "project"))
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "sh", "test"):
        (programs / name).symlink_to(shutil.which(name))
    project.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{programs}"
    output = project.run("make", "run")
    assert "Data and pipelines are up to date." in output
    assert "No git repository" not in output
    code = "from image_classifier.tracking import runs; print(runs.provenance())"
    assert "git.commit" not in project.python("-c", code)


def test_a_run_before_the_first_commit_records_none(
    empty_project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(empty_project.parent))
    assert "git.commit" not in runs.provenance()
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert "git.commit" not in runs.provenance()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("import image_classifier.data.mine", marks=pytest.mark.slow),
        "from image_classifier.data import mine",
    ],
)
def test_code_that_git_does_not_track_is_named_where_an_experiment_lacks_it(
    line: str, tmp_path: Path
):
    project = new_project(tmp_path / "project")
    package = project.folder / "src/image_classifier"
    fetch = package / "stages/fetch.py"
    fetch.write_text(fetch.read_text().replace("import os\n", f"import os\n{line}\n", 1))
    (package / "data/mine.py").touch()
    experiment = ["dvc", "exp", "run", "--temp", "fetch"]
    output = project.run(*experiment, code=255)
    assert "Traceback" not in output
    assert (
        "only the files that git tracks. Run `git add src/image_classifier/data/mine.py`" in output
    )
    project.run("git", "add", "src/image_classifier/data/mine.py")
    project.run(*experiment)


def test_a_module_that_does_not_exist_is_a_traceback(tmp_path: Path):
    project = new_project(tmp_path / "project")
    fetch = project.folder / "src/image_classifier/stages/fetch.py"
    fetch.write_text(f"import image_classifier.no\n{fetch.read_text()}")
    output = project.command("fetch", code=1)
    assert "ModuleNotFoundError: No module named 'image_classifier.no'" in output
    assert "git add" not in output
