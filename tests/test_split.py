import csv
import functools
import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.manifest import read_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.split import split as split_stage

IMAGES = Path("images")


@functools.cache
def settings(*overrides: str) -> Config:
    return compose.config_of(f"dataset.path={IMAGES}", *overrides)


def split(config: Config) -> None:
    """Fetch the images, and split them."""
    fetch(config)
    split_stage(config)


def fill(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(zlib.crc32(str(folder).encode()))
    for index in range(number):
        pixels = generator.integers(0, 255, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")


@pytest.fixture
def given_split(empty_project: Path) -> Path:
    fill(IMAGES / "train" / "COVID19", 30)
    fill(IMAGES / "train" / "NORMAL", 60)
    fill(IMAGES / "test" / "COVID19", 5)
    fill(IMAGES / "test" / "NORMAL", 6)
    return empty_project


@pytest.fixture
def flat(empty_project: Path) -> Path:
    for label, number in (("cat", 20), ("dog", 30), ("eel, electric", 50)):
        fill(IMAGES / label, number)
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
    fill(IMAGES / "val" / "COVID19", 2)
    fill(IMAGES / "val" / "NORMAL", 2)
    split(settings())
    assert counts()["validation", "COVID19"] == 2
    assert counts()["train", "COVID19"] == 30


def test_flat_class_folders_get_a_stratified_test_split_too(flat: Path):
    split(settings("dataset.positive_class=null"))
    found = counts()
    for label, number in (("cat", 20), ("dog", 30), ("eel, electric", 50)):
        assert 0.12 * number <= found["test", label] <= 0.28 * number
        rest = number - found["test", label]
        assert 0.12 * rest <= found["validation", label] <= 0.28 * rest


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
    with pytest.raises(
        InputError, match=r"dataset\.positive_class=COVID20 is not one of the classes"
    ):
        split(settings("dataset.positive_class=COVID20"))


def test_unreadable_files_are_skipped_and_listed(given_split: Path):
    (IMAGES / "train" / "NORMAL" / "notes.txt").write_text("text")
    whole = (IMAGES / "train" / "NORMAL" / "000.png").read_bytes()
    (IMAGES / "train" / "NORMAL" / "cut, in half.png").write_bytes(whole[: len(whole) // 2])
    split(settings())
    with paths.SKIPPED.open(newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(listed) == {"train/NORMAL/cut, in half.png"}
    assert all(listed.values())
    assert "train/NORMAL/notes.txt,other file (.txt)," in paths.UNUSED.read_text()
    assert len(read_manifest()) == 101


def test_too_few_images_are_refused(empty_project: Path):
    fill(IMAGES / "a", 1)
    fill(IMAGES / "b", 2)
    with pytest.raises(
        InputError, match=r"No image is left for .*train/a.*Every split needs images"
    ):
        split(settings("dataset.positive_class=a"))


def test_a_class_that_only_test_has_is_refused(given_split: Path):
    fill(IMAGES / "test" / "OTHER", 2)
    with pytest.raises(InputError, match="OTHER"):
        split(settings())


def test_the_manifest_has_the_real_format_and_size_of_each_file(given_split: Path):
    Image.new("RGB", (30, 20)).save(IMAGES / "train" / "NORMAL" / "a.jpg", "PNG")
    split(settings())
    row = next(row for row in read_manifest() if row.path == "train/NORMAL/a.jpg")
    assert (row.format, row.mode, row.width, row.height) == ("PNG", "RGB", 30, 20)
    assert len(row.sha256) == 64


def shapes(seed: int) -> Image.Image:
    """An image with large and small details, like a photograph."""
    generator = np.random.default_rng(seed)
    total = np.zeros((160, 192))
    for side in (4, 8, 16, 32):
        detail = generator.integers(0, 60, (side, side), dtype=np.uint8)
        total += np.asarray(Image.fromarray(detail).resize((192, 160), Image.Resampling.BICUBIC))
    return Image.fromarray(total.astype(np.uint8))


def save(path: str, image: Image.Image, **options: int) -> None:
    target = IMAGES / path
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, **options)


@pytest.fixture
def leaky(empty_project: Path) -> Path:
    """Images with duplicates and patients on both sides of the given split."""
    for index in range(40):
        label = "COVID19" if index % 2 else "NORMAL"
        save(f"train/{label}/p{index}-1.png", shapes(index))
    for index in range(40, 60):
        label = "COVID19" if index % 2 else "NORMAL"
        save(f"test/{label}/p{index}-1.png", shapes(index))
    for index in range(5):
        label = "COVID19" if index % 2 else "NORMAL"
        save(f"test/{label}/exact{index}.png", shapes(index))
        other = shapes(10 + index)
        save(f"test/{label}/near{index}.jpg", other.resize((96, 80)), quality=60)
    save("test/COVID19/p3-2.png", shapes(100))  # patients 3 and 4 are in train
    save("test/NORMAL/p4-2.png", shapes(101))
    return empty_project


PATIENT = r"dataset.group_pattern='/p(\d+)-'"


def skipped() -> dict[str, str]:
    with paths.SKIPPED.open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_leaking_duplicates_and_patients_are_named_and_dropped_from_test(
    leaky: Path, capsys: pytest.CaptureFixture
):
    split(settings(PATIENT))
    dropped = skipped()
    for index in range(5):
        label = "COVID19" if index % 2 else "NORMAL"
        exact, near = f"test/{label}/exact{index}.png", f"test/{label}/near{index}.jpg"
        assert dropped[exact] == (
            f"leaks: exact duplicate (distance 0), train/{label}/p{index}-1.png"
        )
        assert dropped[near].startswith("leaks: near duplicate")
        assert dropped[near].endswith(f"train/{label}/p{10 + index}-1.png")
    assert dropped["test/COVID19/p3-2.png"] == "leaks: same group, train/COVID19/p3-1.png"
    assert len(dropped) == 12
    assert not {row.path for row in read_manifest()} & set(dropped)
    output = capsys.readouterr().out
    assert all(path in output for path in dropped)
    record = json.loads(paths.SPLIT.read_text())["duplicates"]
    assert set(record["leaking_dropped"]) == set(dropped)
    assert (record["exact_pairs"], record["near_pairs"]) == (5, 5)
    with paths.DUPLICATES.open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert sum(pair["leaks"] == "yes" for pair in pairs) == 12


def test_leaks_can_stop_the_pipeline(leaky: Path):
    with pytest.raises(InputError, match=r"(?s)12 images occur in two splits.*exact0\.png"):
        split(settings(PATIENT, "split.leaks=stop"))


def test_the_same_image_in_two_classes_stops_with_both_names(leaky: Path):
    save("train/NORMAL/wrong.jpg", shapes(1), quality=70)  # shapes(1) is COVID19
    with pytest.raises(
        InputError,
        match=r"(?s)3 images have a duplicate in another class.*train/COVID19/p1-1\.png "
        r"\(COVID19\) in two classes: near duplicate \(distance \d+\) of train/NORMAL/wrong\.jpg",
    ):
        split(settings())


def test_a_random_split_keeps_duplicates_and_groups_together(empty_project: Path):
    for index in range(30):
        label = "cat" if index % 2 else "dog"
        save(f"{label}/a{index}-1.png", shapes(index))
        save(f"{label}/a{index}-2.png", shapes(1000 + index))  # the same animal
        save(f"{label}/copy{index}.jpg", shapes(index).resize((120, 100)), quality=80)
    split(settings("dataset.positive_class=cat", r"dataset.group_pattern='/a(\d+)-'"))
    where: dict[str, set[str]] = {}
    for row in read_manifest():
        animal = Path(row.path).stem.split("-")[0].removeprefix("copy").removeprefix("a")
        where.setdefault(animal, set()).add(row.split)
    assert len(where) == 30
    assert all(len(splits) == 1 for splits in where.values())
    found = counts()
    for label in ("cat", "dog"):
        total = sum(n for (_, own), n in found.items() if own == label)
        assert 0.12 * total < found["test", label] < 0.28 * total
    assert {row.group for row in read_manifest()} == {str(i) for i in range(30)} | {""}


def test_sources_come_from_the_path(flat: Path):
    split(settings("dataset.positive_class=null", "dataset.source_pattern='^[a-z]+'"))
    assert {row.source for row in read_manifest()} == {"cat", "dog", "eel"}


def test_a_group_that_is_too_large_stays_in_training_and_is_named(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    for index in range(40):
        save(f"cat/a_{index:02}.png", shapes(index))
        save(f"dog/d{index:02}_00.png", shapes(100 + index))
    for index in range(19):
        save(f"cat/c{index:02}_00.png", shapes(200 + index))
    for seed in range(10):
        split(
            settings(
                "dataset.positive_class=cat",
                "dataset.group_pattern='/([a-z0-9]+)_'",
                f"split.seed={seed}",
            )
        )
        rows = read_manifest()
        found = counts()
        assert 7 <= found["test", "cat"] <= 15
        assert 5 <= found["test", "dog"] <= 11
        assert {row.split for row in rows if row.group == "a"} == {"train"}
        assert "the group a (40 of 59 cat) is too large for test" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_every_class_is_near_the_wanted_one(empty_project: Path, seed: int):
    for label, number in (("a", 30), ("b", 60), ("c", 200), ("d", 12)):
        fill(IMAGES / label, number)
    split(settings("dataset.positive_class=null", f"split.seed={seed}"))
    found = counts()
    for label, number in (("a", 30), ("b", 60), ("c", 200), ("d", 12)):
        assert 0.12 * number <= found["test", label] <= 0.28 * number
        rest = number - found["test", label]
        assert 0.12 * rest <= found["validation", label] <= 0.28 * rest


def test_adding_images_moves_none(empty_project: Path):
    """500 images, and three times 20% more."""
    for label in ("a", "b"):
        fill(IMAGES / label, 250)
    known: dict[str, str] = {}
    for step in range(4):
        if step:
            for label in ("a", "b"):
                number = len(list((IMAGES / label).iterdir()))
                fill(Path(f"new{step}") / label, number // 5)
                for path in sorted((Path(f"new{step}") / label).iterdir()):
                    path.rename(IMAGES / label / f"{step}-{path.name}")
        split(settings("dataset.positive_class=a"))
        now = {row.path: row.split for row in read_manifest()}
        assert {path: now[path] for path in known} == known
        known = now
    assert len(known) > 850


def test_folds_keep_groups_whole_and_leave_the_test_images_out(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    for index in range(60):
        save(f"{'cat' if index % 2 else 'dog'}/g{index // 4:02}-{index}.png", shapes(index))
    own = ["dataset.positive_class=cat", "dataset.group_pattern='/(g\\d+)-'"]
    split(settings(*own, "split.folds=3"))
    rows = read_manifest()
    assert {row.fold for row in rows if row.split != "test"} == {0, 1, 2}
    assert {row.fold for row in rows if row.split == "test"} == {-1}
    folds: dict[str, set[int]] = {}
    for row in rows:
        folds.setdefault(row.group, set()).add(row.fold)
    assert all(len(numbers) == 1 for numbers in folds.values())
    split(settings(*own, "split.folds=50"))
    assert {row.fold for row in read_manifest()} == {-1}
    assert "fewer than split.folds=50" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_refused_and_one_that_matches_some_is_said(
    leaky: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(InputError, match=r"dataset\.source_pattern=xyz matches none of the paths"):
        split(settings("dataset.source_pattern=xyz"))
    split(settings(PATIENT))
    output = capsys.readouterr().out
    assert (
        "60 groups, for 62 of 72 images; dataset.group_pattern does not match e.g. test/" in output
    )


@pytest.fixture
def contradicting(empty_project: Path) -> Path:
    """60 images of each class, 25 of which are in both."""
    for index in range(60):
        save(f"cat/{index:02}.png", shapes(index))
        save(f"dog/{index:02}.png", shapes(100 + index))
    for index in range(25):
        save(f"dog/copy_{index:02}.png", shapes(index))
    return empty_project


def test_all_contradictions_are_in_a_file_and_can_be_dropped(
    contradicting: Path, capsys: pytest.CaptureFixture
):
    own = "dataset.positive_class=cat"
    with pytest.raises(InputError, match=r"50 images .*split\.contradictions=drop") as error:
        split(settings(own))
    assert "duplicate_distance" not in str(error.value)  # it cannot help with exact duplicates
    with paths.CONTRADICTIONS.open(newline="") as file:
        listed = {row["path"] for row in csv.DictReader(file)}
    assert len(listed) == 50
    split(settings(own, "split.contradictions=drop"))
    found = counts()
    assert sum(n for (_, label), n in found.items() if label == "cat") == 35
    assert sum(n for (_, label), n in found.items() if label == "dog") == 60
    record = json.loads(paths.SPLIT.read_text())["duplicates"]
    assert set(record["contradictions_dropped"]) == listed == set(skipped())
    assert (
        "50 images have a duplicate in another class. They are left out" in capsys.readouterr().out
    )


def test_all_copies_of_an_image_with_two_classes_are_dropped(empty_project: Path):
    for index in range(20):
        save(f"cat/{index:02}.png", shapes(index))
        save(f"dog/{index:02}.png", shapes(100 + index))
    for name in ("cat/again.png", "cat/and again.png", "dog/wrong.png"):
        save(name, shapes(0))
    split(settings("dataset.positive_class=cat", "split.contradictions=drop"))
    assert set(skipped()) == {"cat/00.png", "cat/again.png", "cat/and again.png", "dog/wrong.png"}


def test_images_like_masks_are_pointed_at(flat: Path, capsys: pytest.CaptureFixture):
    for index in range(5):
        mask = np.zeros((90, 90), bool)
        mask[20 + index : 60, 30:70] = True
        Image.fromarray(mask).save(IMAGES / "cat" / f"other{index}.png")
    split(settings("dataset.positive_class=null"))
    assert "5 of 105 images have almost only two values, as masks" in capsys.readouterr().out
