import json
import subprocess
from pathlib import Path

import pytest

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch


def settings(*overrides: str) -> Config:
    return compose.config_of(*overrides)


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    return subprocess.run(
        ["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset repository as the article's: Data/{train,test}/{COVID19,NORMAL}, two commits."""
    folder = tmp_path_factory.mktemp("repository")
    for split, number in (("train", 3), ("test", 2)):
        for label in ("COVID19", "NORMAL"):
            (folder / "Data" / split / label).mkdir(parents=True)
            for index in range(number):
                name = f"{label} ({index}).jpg"
                (folder / "Data" / split / label / name).write_bytes(f"{split}{name}".encode())
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "tag", "v1")
    (folder / "Data" / "train" / "NORMAL" / "late.jpg").write_bytes(b"late")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=second")
    return folder


def from_repository(repository: Path, *overrides: str) -> Config:
    counts = ["dataset.expected_counts.train=7", "dataset.expected_counts.test=4"]
    return settings("dataset=covid_xray", f"dataset.url={repository}", *counts, *overrides)


def test_a_git_repository_is_fetched_with_its_commit_and_counts(
    empty_project: Path, repository: Path
):
    fetch(from_repository(repository))
    assert len(list(paths.RAW.glob("train/COVID19/*"))) == 3
    record = json.loads(paths.FETCHED.read_text())
    assert record["commit"] == git(repository, "rev-parse", "HEAD")
    assert record["counts"]["train"] == {"COVID19": 3, "NORMAL": 4}
    assert record["source"] == str(repository)


def test_a_revision_is_fetched(empty_project: Path, repository: Path):
    fetch(from_repository(repository, "dataset.revision=v1", "dataset.expected_counts.train=6"))
    assert json.loads(paths.FETCHED.read_text())["commit"] == git(repository, "rev-parse", "v1")
    assert not (paths.RAW / "train/NORMAL/late.jpg").exists()


def test_another_number_of_images_is_refused(empty_project: Path, repository: Path):
    with pytest.raises(InputError, match=r"train/ has 7 images.*dataset\.expected_counts\.train=7"):
        fetch(from_repository(repository, "dataset.expected_counts.train=8"))
    assert not paths.RAW.exists()


@pytest.mark.parametrize("override", ["dataset.revision=v9", "dataset.subfolder=Dta"])
def test_a_wrong_revision_or_subfolder_is_refused(
    empty_project: Path, repository: Path, override: str
):
    with pytest.raises(InputError, match=r"cannot be downloaded"):
        fetch(from_repository(repository, override))
    assert list(paths.BUILD.iterdir()) == []


def test_a_failed_fetch_keeps_the_former_dataset(empty_project: Path, repository: Path):
    fetch(from_repository(repository))
    with pytest.raises(InputError):
        fetch(from_repository(repository, "dataset.revision=v9"))
    assert len(list(paths.RAW.glob("train/COVID19/*"))) == 3


def test_hidden_files_and_links_out_of_the_folder_are_not_copied(
    empty_project: Path, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("folder")
    secret = folder.parent / "secret.jpg"
    secret.write_bytes(b"secret")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        (folder / label / "1.jpg").write_bytes(label.encode())
        (folder / label / ".DS_Store").write_bytes(b"")
    (folder / "cat" / "2.jpg").symlink_to(secret)
    pets = ["dataset=folder", "dataset.name=pets", "dataset.positive_class=cat"]
    fetch(settings(*pets, f"dataset.path={folder}", "dataset.maximum_unused=0.5"))
    copied = {p.relative_to(paths.RAW).as_posix() for p in paths.RAW.rglob("*") if p.is_file()}
    assert copied == {"cat/1.jpg", "dog/1.jpg"}


def test_a_folder_without_class_folders_is_refused(empty_project: Path):
    (empty_project / "flat").mkdir()
    (empty_project / "flat" / "1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="two or more classes"):
        fetch(settings("dataset=folder", "dataset.name=x", f"dataset.path={empty_project}/flat"))


def test_a_missing_folder_is_refused(empty_project: Path):
    with pytest.raises(InputError, match="no such folder"):
        fetch(settings("dataset=folder", "dataset.name=x", "dataset.path=/nowhere"))


def test_a_missing_positive_class_is_reported_before_a_folder_is_copied(empty_project: Path):
    for label in ("cat", "dog"):
        (empty_project / "pets" / label).mkdir(parents=True)
        (empty_project / "pets" / label / "1.jpg").write_bytes(b"picture")
    pets = ["dataset=folder", "dataset.name=pets", "dataset.path=pets"]
    with pytest.raises(
        InputError, match=r"two classes, cat and dog: .*dataset\.positive_class=cat"
    ):
        fetch(settings(*pets))
    assert list(paths.BUILD.iterdir()) == []
    fetch(settings(*pets, "dataset.positive_class=cat"))
    assert json.loads(paths.FETCHED.read_text())["counts"] == {"all": {"cat": 1, "dog": 1}}
