"""seen: which trainings of a real MLflow store used an image, also as a copy of another file."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from conftest import ROOT
from image_classifier.__main__ import main
from image_classifier.data.labels import SplitName
from image_classifier.data.manifest import ImageRow, write_manifest
from image_classifier.data.near_duplicates import fingerprint
from image_classifier.project import digests
from image_classifier.tracking import runs, searches, seen
from phantoms.dataset import write_dataset

NAME = "some-model"
Command = Callable[..., tuple[int, str, str]]


def manifest_row(path: Path, split: SplitName, fold: int) -> ImageRow:
    file = fingerprint(path)
    return ImageRow(
        path.name, "a", split, file.sha256, file.perceptual_hash, "", "", fold, "JPEG", "L", 9, 9, 9
    )  # fmt: skip


class Store:
    """A store whose runs have manifests, as trainings leave them."""

    def __init__(self, folder: Path, empty: Path) -> None:
        shutil.copy(empty, folder / "mlflow.db")  # faster than to create its tables
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(self.uri)
        self.client = mlflow.MlflowClient(self.uri)
        location = (folder / "artifacts").as_uri()
        self.experiments = [
            self.client.create_experiment(name, location) for name in ("one", "other")
        ]
        self.client.create_registered_model(NAME)

    def training(
        self,
        rows: Sequence[ImageRow],
        *,
        fold: int | None = None,
        status: str = "FINISHED",
        uploaded: bool = True,
        versions: int = 0,
        experiment: int = 0,
        **tags: str,
    ) -> str:
        manifest = self.folder / "manifest.csv"
        write_manifest(list(rows), manifest)
        all_tags = {"manifest_digest": digests.of_file(manifest)} | tags
        run = self.client.create_run(self.experiments[experiment], tags=all_tags).info.run_id
        self.client.log_param(run, "training.fold", str(fold))
        if uploaded:
            self.client.log_artifact(run, str(manifest), "data")
        self.client.set_terminated(run, status)
        for _ in range(versions):
            self.client.create_model_version(NAME, f"runs:/{run}/model", run, tags=all_tags)
        return run


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store without runs."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phantoms of one dataset by name, and a new one, which no training has."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_dataset(folder / "old", 2, 1, seed=0)
    write_dataset(folder / "fresh", 0, 1, seed=1)
    found = sorted((folder / "old").rglob("phantom-*"))
    names = ("test", "other test", "train", "validation", "other train", "moved")
    return dict(zip(names, found, strict=True)) | {
        "new": next((folder / "fresh").rglob("phantom-*"))
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, images: dict[str, Path], empty: Path) -> Store:
    """Trainings on one manifest: 1 and 2 without fold, a fold, a deleted and a copied one."""
    store = Store(tmp_path_factory.mktemp("store"), empty)
    rows = rows_of(images)
    first = store.training(rows, versions=2)
    store.training(rows, fold=0, experiment=1, versions=1)
    deleted = store.training(rows)
    store.client.delete_run(deleted)
    store.training(rows, uploaded=False, **{runs.REUSED: first})
    store.training(rows, uploaded=False, status="KILLED")
    store.deleted, store.first = deleted, first
    return store


def rows_of(images: dict[str, Path]) -> list[ImageRow]:
    return [
        manifest_row(images["train"], "train", 0),
        manifest_row(images["validation"], "validation", 1),
        manifest_row(images["test"], "test", -1),
    ]


@pytest.fixture
def command(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `seen` in the project's folder, on a store; return exit code, output and errors."""

    def run(*files: Path, uri: str = store.uri) -> tuple[int, str, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        code = main(["seen", *map(str, files)])
        return code, *capsys.readouterr()

    return run


def test_an_image_is_found_in_the_split_that_each_training_gave_it(
    store: Store, images: dict[str, Path], command: Command
):
    code, output, _ = command(images["train"])
    assert code == 3
    in_training = next(line for line in output.splitlines() if "in the training images" in line)
    assert f"exactly this image, {images['train'].name}, is" in in_training
    assert f"2 versions of {NAME}: 1, 2" in in_training
    assert f"{store.deleted} (deleted run)" in in_training
    assert "2 runs without a version" in in_training  # the deleted one and the killed one
    assert "(unfinished run)" in in_training
    # with training.fold=0 the image is in the validation images, as its fold is 0
    in_validation = next(line for line in output.splitlines() if "in the validation" in line)
    assert in_validation.endswith(f"of 1 version of {NAME}: 3")

    code, output, _ = command(images["test"])
    assert code == 0  # no training has trained or validated on it
    assert f"in the test images of 3 versions of {NAME}: 1, 2, 3; 2 runs" in output


def test_a_renamed_file_and_a_smaller_copy_are_found_and_a_new_image_is_not(
    images: dict[str, Path], command: Command, tmp_path: Path
):
    renamed = shutil.copy(images["validation"], tmp_path / "other name.png")
    smaller = tmp_path / "smaller.jpg"
    with Image.open(images["validation"]) as image:
        grey = image.convert("L")
        grey.resize((grey.width // 2, grey.height // 2)).save(smaller, quality=70)
    code, output, _ = command(renamed, smaller, images["new"], images["moved"])
    assert code == 3
    lines = output.splitlines()
    assert f"{renamed}:" in lines
    assert f"  exactly this image, {images['validation'].name}, is in the validation" in output
    assert f"  a near copy, {images['validation'].name} (" in output
    for path in (images["new"], images["moved"]):
        assert f"{path}: not seen by any of the 5 trainings in this store." not in lines
        assert f"{path}: not seen by any of the 4 trainings in this store." in lines
    assert "in the training images of 1 version" in output  # of the fold
    assert command(images["new"])[0] == 0


def test_each_manifest_is_read_once_and_more_runs_than_a_page_are_found(
    store: Store, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setattr(searches, "PAGE", 2)
    trainings, holders = seen.find_trainings()
    assert len(trainings) == 4  # the copy that a sweep made is not a training of its own
    assert sorted(version for each in trainings for _, version in each.versions) == [1, 2, 3]
    assert len(holders) == 1
    ((digest, runs_with_it),) = holders.items()
    assert seen.read_from(runs_with_it, digest) == rows_of(images)


def test_a_manifest_that_is_lost_is_never_taken_for_not_seen(
    images: dict[str, Path], command: Command, tmp_path: Path, empty: Path
):
    store = Store(tmp_path, empty)
    store.training([manifest_row(images["train"], "train", 0)], versions=1)
    lost = store.training([manifest_row(images["moved"], "train", 0)], uploaded=False)
    started = store.training(
        [manifest_row(images["test"], "train", 0)], **{runs.STARTED_FROM: "0" * 32}
    )
    damaged = store.training([manifest_row(images["validation"], "train", 0)])
    folder = tmp_path / "artifacts" / damaged / "artifacts" / "data"
    (folder / "manifest.csv").write_text("path\nx\n")
    code, output, errors = command(images["moved"], uri=store.uri)
    assert code == 1
    assert "not seen by any of the 1 trainings in this store. Of 3 others it is not" in output
    assert (
        f"their manifest cannot be read: it is not stored: 1 run without a version: {lost}"
        in errors
    )
    assert f"it is damaged: 1 run without a version: {damaged}" in errors
    assert f"they started from run {'0' * 32}, which MLflow does not have: 1 run" in errors
    assert started in errors
    # what can be read is still found
    assert (
        f"in the training images of 1 version of {NAME}: 1"
        in command(images["train"], uri=store.uri)[1]
    )


def test_what_the_first_weights_have_seen_counts_and_a_version_outlives_its_run(
    images: dict[str, Path], command: Command, tmp_path: Path, empty: Path
):
    store = Store(tmp_path, empty)
    old = [manifest_row(images["train"], "train", 0)]
    first = store.training(old, versions=1)
    store.training(
        [manifest_row(images["test"], "train", 0)], versions=1, **{runs.STARTED_FROM: first}
    )
    # another run has the same manifest, but nobody knows the fold
    digest = store.client.get_run(first).data.tags["manifest_digest"]
    store.client.create_model_version(NAME, "x", "f" * 32, tags={"manifest_digest": digest})
    _, output, _ = command(images["train"], uri=store.uri)
    assert f"in the training images of 1 version of {NAME}: 1" in output
    assert f"images of those whose weights these started from 1 version of {NAME}: 2" in output
    assert f"training or validation images of 1 version of {NAME}: 3 (run is gone)" in output


def test_frames_of_a_fixed_camera_are_not_called_copies(images: dict[str, Path]):
    row = manifest_row(images["train"], "train", 0)
    frames = [replace(row, sha256=str(number)) for number in range(seen.SCENE_IMAGES)]
    file = fingerprint(images["train"])
    training = seen.Training("x", (), "", (seen.Split("d"),))
    (matches,) = seen.match([file], frames, 58)
    assert seen.use_of(training, {"d": matches}).scene
    (matches,) = seen.match([file], [*frames, replace(row, split="test")], 58)
    use = seen.use_of(training, {"d": matches})
    assert (use.split, use.not_exact, use.scene) == ("test", False, False)
    (matches,) = seen.match([file], frames, None)  # split.duplicate_distance=null
    assert seen.use_of(training, {"d": matches}) is None


def test_files_that_are_no_images_and_an_empty_store_are_said(
    images: dict[str, Path], command: Command, tmp_path: Path, empty: Path
):
    (tmp_path / "text.jpg").write_text("not an image")
    code, output, errors = command(tmp_path, images["new"])
    assert code == 1
    assert f"skipped {tmp_path / 'text.jpg'}: not an image file" in errors
    assert "1 of 2 files skipped" in errors
    assert f"{images['new']}: not seen by any" in output
    code, _, errors = command(images["new"], uri=f"sqlite:///{empty}")
    assert code == 1
    assert "has no training" in errors
    assert "MLFLOW_TRACKING_URI" in errors
