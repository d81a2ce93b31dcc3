"""Outputs that are links into DVC's cache: every stage runs, and no cached file is changed."""

import errno
import hashlib
import re
import shutil
from pathlib import Path

import pytest

from conftest import SHRUNK, Project, copy_of, new_project
from image_classifier.errors import explain_os_error


def cached(project: Project) -> dict[Path, str]:
    files = [path for path in (project.folder / ".dvc/cache").rglob("*") if path.is_file()]
    return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symlink", "hardlink", "copy"])
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


def test_the_advice_for_a_full_disk_moves_the_cache_and_frees_the_space(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = copy_of(project, tmp_path / "project")
    monkeypatch.chdir(project.folder)
    full = OSError(errno.ENOSPC, "No space left on device", "build/split/manifest.csv")
    (command,) = re.findall("`(.*)`", explain_os_error(full))
    (tmp_path / "disk").mkdir()
    project.run("bash", "-c", command.replace("/that/disk", str(tmp_path / "disk")))
    assert not Path(".dvc/cache").exists()
    files = [path for path in Path("build/raw").rglob("*") if not path.is_dir()]
    assert files
    for path in files:
        assert path.readlink().is_relative_to(tmp_path / "disk")
    assert "Data and pipelines are up to date." in project.run("dvc", "repro")
    # nothing can be moved now; and another disk is not DVC's
    assert "`" not in explain_os_error(full)
    Path(".dvc/cache").mkdir()
    assert "`" not in explain_os_error(OSError(errno.ENOSPC, "No space", "/elsewhere/x"))


def test_the_last_images_stay_when_the_dataset_cannot_be_read(tmp_path: Path, shapes: Path):
    images = tmp_path / "images"
    shutil.copytree(shapes, images)
    chosen = ["dataset=folder", "dataset.name=shapes", f"dataset.path={images}", "split.leaks=drop"]
    chosen += ["dataset.positive_class=null", "+external.north.path=" + str(images)]
    project = new_project(tmp_path / "project", *chosen)
    project.run("dvc", "repro", "split")
    kept = ["raw", "labels.csv", "not_used.csv", "fetch.json", "external"]

    def state() -> dict[Path, bytes]:
        places = [project.folder / "build" / name for name in kept]
        files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
        return {file: file.read_bytes() for file in files}

    before = state()
    images.rename(tmp_path / "away")  # its disk is not mounted
    project.run("dvc", "repro", code=255)
    assert state() == before
    assert "didn't change" in project.run("dvc", "repro", "--allow-missing", "split")
    project.run("dvc", "repro", "--single-item", "--force", "split")
    assert state() == before
    (tmp_path / "away").rename(images)
    params = project.folder / "params.yaml"
    text = params.read_text()
    assert "expected_counts: null" in text
    params.write_text(text.replace("expected_counts: null", "expected_counts: {train: 1}"))
    output = project.run("dvc", "repro", code=255)
    assert "train/ has 0 images, expected 1" in output
    assert state() == before
