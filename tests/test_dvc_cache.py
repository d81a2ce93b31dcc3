"""Outputs that are links into DVC's cache: every stage runs, and no cached file is changed."""

import hashlib
import shutil
from pathlib import Path

import pytest

from conftest import SHRUNK, Project, copy_of, new_project


def cached(project: Project) -> dict[Path, str]:
    files = [path for path in (project.folder / ".dvc/cache").rglob("*") if path.is_file()]
    return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "kind",
    ["symlink", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("hardlink", "copy"))],
)
def test_every_stage_runs_on_links_into_the_cache(kind: str, tmp_path: Path, project: Project):
    project = copy_of(project, tmp_path / "project")
    project.run("dvc", "config", "--local", "cache.type", kind)
    project.run("dvc", "checkout", "--relink")
    record = project.folder / "build/train/run.json"
    assert record.is_symlink() == (kind == "symlink")
    assert (record.stat().st_nlink > 1) == (kind == "hardlink")
    before = cached(project)
    assert len(before) > 280
    manifest = (project.folder / "build/split/manifest.csv").read_bytes()
    project.stages()  # without DVC, which removes the outputs of a stage before it runs
    now = cached(project)
    assert {path: now[path] for path in before} == before
    assert (project.folder / "build/split/manifest.csv").read_bytes() == manifest


def test_a_build_folder_on_another_disk_is_refused_before_any_work_with_what_helps(
    tmp_path_factory: pytest.TempPathFactory,
):
    project = new_project(tmp_path_factory.mktemp("linked"), *SHRUNK)
    elsewhere = tmp_path_factory.mktemp("disk") / "build"
    shutil.move(project.folder / "build", elsewhere)
    (project.folder / "build").symlink_to(elsewhere)
    output = project.run("dvc", "repro", code=255)
    assert f"build is a link to {elsewhere}, and DVC refuses outputs outside" in output
    assert not (elsewhere / "raw").exists()
    project.run("dvc", "config", "--local", "core.no_scm", "true")
    project.run("dvc", "repro", "prepare")
    assert (elsewhere / "prepare" / "images.npy").is_file()
