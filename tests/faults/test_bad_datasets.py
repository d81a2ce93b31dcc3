"""Invalid datasets: a stage fails, names what is wrong, and leaves the last outputs unchanged."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import image_classifier
from conftest import as_nobody, run_stages
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.data.manifest import ImageRow, read_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.external import external
from image_classifier.stages.fetch import fetch
from image_classifier.stages.prepare import prepare
from image_classifier.stages.split import split
from image_classifier.stages.train import check

SOURCE = Path(image_classifier.__file__).parents[1]
SMALL = ["image.height=8", "image.width=8"]


def pets(*overrides: str) -> Config:
    own = ["dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat"]
    return compose.config_of(*SMALL, *own, *overrides)


def draw(folder: Path, number: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(number):
        pixels = generator.integers(0, 255, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")


@pytest.fixture
def folder(empty_project: Path) -> Path:
    """Two classes of ten images each."""
    draw(Path("pets/cat"), 10, 1)
    draw(Path("pets/dog"), 10, 2)
    return Path("pets")


def write_params(folder: Path, *overrides: str) -> None:
    composed = compose.OmegaConf.to_yaml(compose.compose([*SMALL, *overrides]), resolve=True)
    (folder / "corrections.csv").write_text("path,label,reason\n")
    (folder / "params.yaml").write_text(composed)


def fetched() -> set[str]:
    return {p.relative_to(paths.RAW).as_posix() for p in paths.RAW.rglob("*") if p.is_file()}


def test_links_pipes_and_sockets_are_skipped_with_a_reason(
    folder: Path, empty_project: Path, capsys: pytest.CaptureFixture
):
    cat = folder / "cat"
    (empty_project / "secret.png").write_bytes(b"secret")
    (empty_project / "elsewhere").mkdir()
    (cat / "out.png").symlink_to(empty_project / "secret.png")
    (cat / "nowhere.png").symlink_to("gone.png")
    (cat / os.fsdecode(b"\xe9\n.png")).symlink_to("gone.png")
    (cat / "circle.png").symlink_to("circle.png")
    (cat / "up").symlink_to("..")
    (cat / "dogs").symlink_to("../dog")
    (cat / "in.png").symlink_to("../dog/00.png")
    (folder / "round").symlink_to(".")
    (folder / "elsewhere").symlink_to(empty_project / "elsewhere")
    os.mkfifo(cat / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(cat / "socket.png"))
        with pytest.raises(InputError, match=r"(?s)10 of 31 images would not.*links_into"):
            fetch(pets())
        fetch(pets("dataset.maximum_unused=0.4"))
    assert fetched() == {f"{c}/{i:02}.png" for c in ("cat", "dog") for i in range(10)} | {
        "cat/in.png"
    }
    assert (paths.RAW / "cat/in.png").read_bytes() == (folder / "dog/00.png").read_bytes()
    assert not any(path.is_symlink() for path in paths.RAW.rglob("*"))
    expected = {
        "cat/out.png": "a link to outside the dataset",
        "cat/nowhere.png": "a link to a missing file",
        "cat/\\\\xe9\\n.png": "a link to a missing file",
        "cat/circle.png": "a link to a missing file",
        "cat/up": "a link to a parent folder",
        "cat/dogs": "a link to a folder",
        "round": "a link to a parent folder",
        "elsewhere": "a link to outside the dataset",
        "cat/pipe.png": "not a file, but a pipe, socket or device",
        "cat/socket.png": "not a file, but a pipe, socket or device",
    }
    with paths.UNUSED.open(newline="") as file:
        assert {row["path"]: row["reason"] for row in csv.DictReader(file)} == expected
    assert json.loads(paths.FETCHED.read_text())["unused"] == {
        "link that is not followed": 8,
        "pipe, socket or device": 2,
    }
    output = capsys.readouterr().out
    assert "Not used: 8 (link that is not followed): cat/\\\\xe9\\n.png" in output


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"caf\xe9.png", r"cat/caf\\xe9\.png"), (b"two\nlines.png", r"cat/two\\nlines\.png"),
     (b"\x1b[31mred.png", r"cat/\\x1b\[31mred\.png")],
)  # fmt: skip
def test_an_unprintable_file_name_is_refused(folder: Path, name: bytes, shown: str):
    (folder / "cat" / os.fsdecode(name)).write_bytes(b"x")
    with pytest.raises(InputError, match=shown + ".*Rename it"):
        fetch(pets())


def test_an_empty_class_folder_is_refused(folder: Path):
    (folder / "eel").mkdir()
    (folder / "eel" / ".gitkeep").touch()
    with pytest.raises(InputError, match=r"eel: this class folder has no images.*remove"):
        fetch(pets())
    assert not list(paths.BUILD.glob("*"))


def test_a_class_folder_of_links_only_is_refused(folder: Path):
    (folder / "eel").mkdir()
    (folder / "eel" / "1.png").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"eel: this class folder has .*only links.*links_into"):
        fetch(pets())


def test_a_single_class_is_refused(folder: Path):
    shutil.rmtree(folder / "dog")
    with pytest.raises(InputError, match=r"each of two or more classes.*found cat"):
        fetch(pets())


@pytest.mark.parametrize("alike", ["Cat", "CAT", "ｃat"])
def test_classes_that_differ_only_in_case_are_refused(folder: Path, alike: str):
    draw(folder / alike, 3)
    with pytest.raises(
        InputError, match=f"('{alike}' and 'cat'|'cat' and '{alike}') differ only in"
    ):
        fetch(pets())


def test_three_images_are_too_few_to_split(empty_project: Path):
    draw(Path("pets/cat"), 1, 1)
    draw(Path("pets/dog"), 2, 2)
    fetch(pets())
    with pytest.raises(InputError, match="Every split needs images of every class"):
        split(pets())


def test_split_fails_on_too_many_unreadable_images_and_names_them(folder: Path):
    for index in range(3):
        (folder / "cat" / f"broken {index}.png").write_bytes(b"x")
    fetch(pets())
    with pytest.raises(
        InputError, match=r"(?s)3 of 23 files.*maximum_unreadable=0\.1.*broken 0\.png"
    ):
        split(pets())
    assert not paths.MANIFEST.exists()
    split(pets("split.maximum_unreadable=0.2"))
    assert len(read_manifest()) == 20


def test_prepare_fails_on_an_image_that_changed_after_split(folder: Path):
    fetch(pets())
    split(pets())
    prepare(pets())
    before = paths.IMAGES.read_bytes(), paths.PREPARED.read_bytes()
    image = paths.RAW / "dog" / "03.png"
    Image.new("L", (12, 12), 7).save(image)
    with pytest.raises(InputError, match=r"build/raw/dog/03\.png changed after split.*dvc repro"):
        prepare(pets())
    image.unlink()
    with pytest.raises(InputError, match=r"build/raw/dog/03\.png was deleted after split"):
        prepare(pets())
    assert (paths.IMAGES.read_bytes(), paths.PREPARED.read_bytes()) == before
    assert len(list(paths.IMAGES.parent.iterdir())) == 3


def test_a_batch_larger_than_the_training_images_is_refused(dataset: PreparedDataset):
    check(pets("training.batch_size=21"), dataset)
    with pytest.raises(InputError, match=r"training\.batch_size=22 is more than the 21 training"):
        check(pets("training.batch_size=22"), dataset)


def test_train_refuses_a_batch_that_is_too_large_before_any_work(folder: Path):
    fetch(pets())
    split(pets())
    prepare(pets())
    write_params(Path(), "dataset=folder", "dataset.name=pets", "dataset.path=pets",
                 "dataset.positive_class=cat", "training.batch_size=999")  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "image_classifier", "train",
         "--config-path", str(Path.cwd()), "--config-name", "params"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert "train: training.batch_size=999 is more than" in result.stderr
    assert not any(line.endswith("| tensorflow") for line in result.stderr.splitlines())
    assert not Path("mlflow.db").exists()


def test_fetch_names_an_unreadable_path_and_keeps_the_last_dataset(world: Path):
    draw(world / "pets/cat", 3, 1)
    draw(world / "pets/dog", 3, 2)
    draw(world / "pets/cat/sub", 2, 3)
    write_params(
        world,
        *("dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat"),
    )
    assert run_stages(world, "fetch", before=as_nobody()) == {"fetch": ""}
    record = (world / paths.FETCHED).read_bytes()
    for unreadable in ("cat/sub", "cat/00.png"):
        (world / "pets" / unreadable).chmod(0)
        end = run_stages(world, "fetch", before=as_nobody())["fetch"]
        assert end.startswith(f"fetch: pets/{unreadable}: Permission denied. ")
        assert end.count("Permission denied") == 1
        assert "`ls -ld`" in end
        assert "\n" not in end
        (world / "pets" / unreadable).chmod(0o755)
        assert len(list((world / paths.RAW).rglob("*.png"))) == 8
        assert (world / paths.FETCHED).read_bytes() == record
        assert {path.name for path in (world / "build").iterdir()} == {
            "raw",
            "labels.csv",
            "not_used.csv",
            "fetch.json",
        }


def test_split_and_prepare_name_an_image_without_read_permission(world: Path):
    draw(world / "pets/cat", 10, 1)
    draw(world / "pets/dog", 10, 2)
    write_params(world, "dataset=folder", "dataset.name=pets", "dataset.path=pets",
                 "dataset.positive_class=cat")  # fmt: skip
    first = run_stages(world, "fetch", "split", before=as_nobody())
    assert first == {"fetch": "", "split": ""}
    manifest = (world / paths.MANIFEST).read_bytes()
    (world / paths.RAW / "cat/04.png").chmod(0)
    for stage, end in run_stages(world, "split", "prepare", before=as_nobody()).items():
        assert end.startswith(f"{stage}: build/raw/cat/04.png: Permission denied.")
    assert (world / paths.MANIFEST).read_bytes() == manifest


def test_a_missing_or_damaged_record_is_named(folder: Path):
    fetch(pets())
    paths.FETCHED.write_text('{"counts":')
    with pytest.raises(InputError, match=r"build/fetch\.json is damaged.*dvc repro -f -s fetch"):
        external(pets())
    paths.FETCHED.unlink()
    with pytest.raises(InputError, match=r"build/fetch\.json not found: run `dvc repro fetch`"):
        external(pets())


def test_the_manifest_keeps_names_and_labels_with_commas_and_quotes(empty_project: Path):
    draw(Path('pets/cat, "big"'), 10, 1)
    draw(Path("pets/dog; small"), 10, 2)
    shutil.copy("pets/dog; small/00.png", 'pets/dog; small/a,"b".png')
    own = pets("dataset.positive_class='dog; small'")
    fetch(own)
    split(own)
    prepare(own)
    assert 'dog; small/a,"b".png' in {row.path for row in read_manifest()}
    assert load_prepared(own).classes == ['cat, "big"', "dog; small"]


def test_the_columns_of_the_manifest_are_the_fields_of_a_row(folder: Path):
    fetch(pets())
    split(pets())
    header = paths.MANIFEST.read_text().splitlines()[0]
    assert header.split(",") == list(ImageRow.__dataclass_fields__)
