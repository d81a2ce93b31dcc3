import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier import config, paths
from image_classifier.dataset import read_manifest
from image_classifier.errors import InputError
from image_classifier.split import split


def settings(*overrides: str) -> config.Config:
    return config.from_hydra(config.compose(overrides))


def fill(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(len(str(folder)))
    for index in range(number):
        pixels = generator.integers(0, 255, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")


@pytest.fixture
def given_split(empty_project: Path) -> Path:
    fill(paths.RAW / "train" / "COVID19", 30)
    fill(paths.RAW / "train" / "NORMAL", 60)
    fill(paths.RAW / "test" / "COVID19", 5)
    fill(paths.RAW / "test" / "NORMAL", 6)
    return empty_project


@pytest.fixture
def flat(empty_project: Path) -> Path:
    for label, number in (("cat", 20), ("dog", 30), ("eel, electric", 50)):
        fill(paths.RAW / label, number)
    return empty_project


def counts() -> Counter[tuple[str, str]]:
    return Counter((row.split, row.label) for row in read_manifest())


def test_a_given_split_is_kept_and_validation_is_a_stratified_fifth_of_training(given_split: Path):
    split(settings())
    assert counts() == {
        ("train", "COVID19"): 24,
        ("train", "NORMAL"): 48,
        ("validation", "COVID19"): 6,
        ("validation", "NORMAL"): 12,
        ("test", "COVID19"): 5,
        ("test", "NORMAL"): 6,
    }
    assert all(row.path.startswith("test/") == (row.split == "test") for row in read_manifest())


def test_a_given_validation_split_is_kept(given_split: Path):
    fill(paths.RAW / "val" / "COVID19", 2)
    fill(paths.RAW / "val" / "NORMAL", 2)
    split(settings())
    assert counts()["validation", "COVID19"] == 2
    assert counts()["train", "COVID19"] == 30


def test_flat_class_folders_get_a_stratified_test_split_too(flat: Path):
    split(settings("dataset.positive_class=null"))
    found = counts()
    assert [found["test", label] for label in ("cat", "dog", "eel, electric")] == [4, 6, 10]
    assert sum(n for (name, _), n in found.items() if name == "validation") == 16


def test_the_seed_decides_the_split(given_split: Path):
    split(settings())
    first = paths.MANIFEST.read_bytes()
    split(settings())
    assert paths.MANIFEST.read_bytes() == first
    split(settings("split.seed=1"))
    assert paths.MANIFEST.read_bytes() != first


def test_the_positive_class_is_the_second_whichever_sorts_last(given_split: Path):
    split(settings())
    assert json.loads(paths.SPLIT.read_text())["classes"] == ["NORMAL", "COVID19"]
    split(settings("dataset.positive_class=NORMAL"))
    assert json.loads(paths.SPLIT.read_text())["classes"] == ["COVID19", "NORMAL"]


def test_two_classes_need_a_positive_one_that_exists(given_split: Path):
    with pytest.raises(InputError, match=r"dataset\.positive_class=COVID19"):
        split(settings("dataset.positive_class=null"))
    with pytest.raises(InputError, match=r"dataset\.positive_class=COVID20 is not among"):
        split(settings("dataset.positive_class=COVID20"))


def test_unreadable_files_are_left_out_and_listed(given_split: Path):
    (paths.RAW / "train" / "NORMAL" / "notes.txt").write_text("text")
    whole = (paths.RAW / "train" / "NORMAL" / "000.png").read_bytes()
    (paths.RAW / "train" / "NORMAL" / "cut, in half.png").write_bytes(whole[: len(whole) // 2])
    split(settings())
    with paths.LEFT_OUT.open(newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(listed) == {"train/NORMAL/notes.txt", "train/NORMAL/cut, in half.png"}
    assert all(listed.values())
    assert len(read_manifest()) == 101


def test_too_few_images_are_refused(empty_project: Path):
    fill(paths.RAW / "a", 1)
    fill(paths.RAW / "b", 2)
    with pytest.raises(InputError, match="Too few images"):
        split(settings("dataset.positive_class=a"))


def test_a_class_that_only_test_has_is_refused(given_split: Path):
    fill(paths.RAW / "test" / "OTHER", 2)
    with pytest.raises(InputError, match="OTHER"):
        split(settings())


def test_the_manifest_tells_what_each_file_really_is(given_split: Path):
    Image.new("RGB", (30, 20)).save(paths.RAW / "train" / "NORMAL" / "a.jpg", "PNG")
    split(settings())
    row = next(row for row in read_manifest() if row.path == "train/NORMAL/a.jpg")
    assert (row.format, row.mode, row.width, row.height) == ("PNG", "RGB", 30, 20)
    assert len(row.sha256) == 64
