"""Which images of a folder are used, and with which class and split: fetch on real files."""

import csv
import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.labels import read_labels
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages import split as split_stage
from image_classifier.stages.fetch import fetch


def settings(*overrides: str) -> Config:
    own = ["dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat"]
    return compose.config_of(*own, *overrides)


def draw(folder: str, number: int = 3) -> None:
    """Write small noise images into a folder below pets/."""
    target = Path("pets") / folder
    target.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(folder.encode()))
    for index in range(number):
        pixels = generator.integers(0, 255, (10, 10), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{index:02}.png")


def draw_all(*folders: str, number: int = 3) -> None:
    for folder in folders:
        draw(folder, number)


def counts() -> dict[str, dict[str, int]]:
    return json.loads(paths.FETCHED.read_text())["counts"]


def unused() -> Counter[str]:
    with paths.UNUSED.open(newline="") as file:
        return Counter(row["kind"] for row in csv.DictReader(file))


@pytest.mark.parametrize("validation", ["val", "valid", "Validation", "DEV", "eval"])
@pytest.mark.parametrize("test", ["test", "Testing", "holdout"])
def test_split_folders_by_the_names_in_use(empty_project: Path, validation: str, test: str):
    for split in ("Train", validation, test):
        draw_all(f"{split}/cat", f"{split}/dog")
    fetch(settings())
    both = {"cat": 3, "dog": 3}
    assert counts() == {"train": both, "validation": both, "test": both}


def test_folders_such_as_seg_train_are_splits_if_they_have_the_same_classes(empty_project: Path):
    draw_all("seg_train/seg_train/cat", "seg_train/seg_train/dog")
    draw_all("seg_test/seg_test/cat", "seg_test/seg_test/dog")
    fetch(settings())
    assert counts() == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 3}}


def test_a_class_may_be_called_train(empty_project: Path):
    draw_all("train", "bus", "car")
    fetch(settings("dataset.positive_class=null"))
    assert counts() == {"all": {"bus": 3, "car": 3, "train": 3}}


def test_folders_with_equal_subfolders_are_sources_and_never_classes(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    draw_all("north/cat", "north/dog", "south/cat", "south/dog", "west/cat", "west/dog")
    fetch(settings())
    assert counts() == {"all": {"cat": 9, "dog": 9}}
    assert {image.source for image in read_labels(paths.LABELS, "")} == {"north", "south", "west"}
    assert "north, south, west all contain class folders" in capsys.readouterr().out


def test_splits_may_lie_inside_the_classes(empty_project: Path):
    draw_all("cat/train", "cat/test", "dog/train", "dog/test")
    fetch(settings())
    assert counts() == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 3}}


def test_a_split_folder_may_have_splits_once_more(empty_project: Path):
    draw_all("train/train/cat", "train/train/dog", "train/val/cat", "train/val/dog")
    draw_all("test/cat", "test/dog")
    fetch(settings())
    three = {"cat": 3, "dog": 3}
    assert counts() == {"train": three, "test": three, "validation": three}


def test_a_class_that_contains_folders_beside_classes_that_do_not_is_said(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    draw_all("dog/brown", "dog/black", "cat")
    fetch(settings())
    assert (
        "dog contains the folders black, brown. All images in them get" in capsys.readouterr().out
    )


def test_class_folders_may_lie_deeper(empty_project: Path):
    draw_all("archive/PetImages/cat", "archive/PetImages/dog/more")
    fetch(settings())
    assert counts() == {"all": {"cat": 3, "dog": 3}}


def test_splits_without_class_folders_are_no_classes(empty_project: Path):
    draw_all("train", "val", "test")
    with pytest.raises(InputError, match=r"test, train, val look like splits.*dataset\.table"):
        fetch(settings("dataset.positive_class=null"))


def test_folders_that_may_be_patients_or_classes_are_asked_about(empty_project: Path):
    folders = [f"{label}/p{number:02}" for label in ("cat", "dog") for number in range(3)]
    draw_all(*folders)
    with pytest.raises(InputError, match=r"cat, dog all contain the folders p00, p01, p02\. Which"):
        fetch(settings())
    fetch(settings("dataset.classes={cat: cat, dog: dog}"))
    assert counts() == {"all": {"cat": 9, "dog": 9}}


def test_a_folder_beside_the_splits_is_named_and_too_large_a_share_is_refused(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    for split in ("train", "test"):
        draw_all(f"{split}/cat", f"{split}/dog", number=9)
    draw_all("extra/cat", "extra/dog", number=2)
    with pytest.raises(InputError, match=r"(?s)4 of 40 .*extra/cat/00.*exclude=\[/extra\]"):
        fetch(settings("dataset.maximum_unused=0.05"))
    fetch(settings())
    output = capsys.readouterr().out
    assert (
        "Not used: 4 (image in a folder beside the classes or splits): extra/cat/00.png" in output
    )
    fetch(settings("dataset.exclude=[/extra]", "dataset.maximum_unused=0"))
    assert unused() == {"excluded by the settings include and exclude": 4}


def test_loose_images_are_counted(empty_project: Path):
    draw_all("cat", "dog", number=20)
    draw_all(".", number=2)
    fetch(settings())
    assert unused() == {"image in no class folder": 2}


def blobs() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (20, 20), dtype=np.uint8)
    return (
        Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)).point(lambda v: 255 * (v > 127))
    )


def test_masks_in_a_folder_of_their_own_are_not_used(empty_project: Path):
    for label in ("cat", "dog"):
        draw(f"{label}/images")
        Path(f"pets/{label}/masks").mkdir()
        for image in Path(f"pets/{label}/images").iterdir():
            blobs().save(f"pets/{label}/masks/{image.name}")
    fetch(settings())
    assert counts() == {"all": {"cat": 3, "dog": 3}}
    assert unused() == {"mask": 6}
    fetch(settings("dataset.include=['*']"))
    assert counts() == {"all": {"cat": 6, "dog": 6}}


def test_masks_beside_their_images_are_not_used(empty_project: Path):
    draw_all("cat", "dog")
    for image in list(Path("pets").rglob("*.png")):
        for ending in ("_mask", "_mask_1"):
            blobs().save(image.with_stem(image.stem + ending))
    fetch(settings())
    assert counts() == {"all": {"cat": 3, "dog": 3}}
    assert unused() == {"mask": 12}


def test_masks_may_differ_from_their_images_in_the_ending_or_a_word_before(empty_project: Path):
    draw_all("cat", "dog")
    for image in list(Path("pets/cat").glob("*.png")):
        blobs().save(image.with_suffix(".bmp"))
    for image in list(Path("pets/dog").glob("*.png")):
        blobs().save(image.with_stem("mask_" + image.stem))
    fetch(settings())
    assert counts() == {"all": {"cat": 3, "dog": 3}}
    assert unused() == {"mask": 6}


def test_classes_called_mask_are_no_masks(empty_project: Path):
    draw_all("mask", "nomask")
    fetch(settings("dataset.positive_class=mask"))
    assert counts() == {"all": {"mask": 3, "nomask": 3}}


@pytest.mark.parametrize("ending", [".xml", ".json", ".txt", ".csv"])
def test_annotation_files_are_counted_and_are_no_images(empty_project: Path, ending: str):
    draw_all("cat", "dog")
    for image in list(Path("pets").rglob("*.png")):
        image.with_suffix(ending).write_text("<annotation/>")
    fetch(settings("dataset.expected_counts=null"))
    assert counts() == {"all": {"cat": 3, "dog": 3}}
    assert unused() == {f"other file ({ending})": 6}


def test_an_image_without_an_ending_is_an_image(empty_project: Path):
    draw_all("cat", "dog")
    Path("pets/cat/00.png").rename("pets/cat/00")
    fetch(settings())
    assert counts() == {"all": {"cat": 3, "dog": 3}}


def test_system_and_thumbnail_folders_are_not_used(empty_project: Path):
    draw_all("cat", "dog", "cat/@eaDir/00.png", "__MACOSX/cat", "#recycle", ".thumbnails")
    Path("pets/dog/Thumbs.db").write_bytes(b"x")
    fetch(settings())
    assert counts() == {"all": {"cat": 3, "dog": 3}}
    assert unused() == {"system or thumbnail file or folder": 5}


def test_the_files_in_a_folder_of_thumbnails_are_counted(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    draw_all("cat", "dog", "thumbs")
    fetch(settings())
    assert "thumbs (a folder with 3 files)" in capsys.readouterr().out


def make_links(number: int) -> None:
    for label in ("cat", "dog"):
        draw(label, 30)
        Path("store").mkdir(exist_ok=True)
        for image in sorted(Path(f"pets/{label}").iterdir())[:number]:
            target = Path("store") / f"{label}{image.name}"
            image.rename(target)
            image.symlink_to(target.absolute())


def test_a_dataset_of_links_works_with_the_setting_that_the_message_names(empty_project: Path):
    make_links(30)
    with pytest.raises(InputError, match=r"cat/00\.png \(a link to outside the dataset\)"):
        fetch(settings())
    fetch(settings("dataset.links_into=store"))
    assert counts() == {"all": {"cat": 30, "dog": 30}}
    assert not any(path.is_symlink() for path in paths.RAW.rglob("*"))


def test_some_links_are_counted_and_too_many_are_refused(empty_project: Path):
    make_links(3)
    fetch(settings())
    assert unused() == {"link that is not followed": 6}
    with pytest.raises(InputError, match=r"dataset\.links_into=/path"):
        fetch(settings("dataset.maximum_unused=0.05"))


def test_class_folders_may_be_links_and_circles_end(empty_project: Path):
    draw_all("../store/cat", "../store/dog")
    Path("pets").mkdir(exist_ok=True)
    for label in ("cat", "dog"):
        Path(f"pets/{label}").symlink_to(Path(f"store/{label}").absolute())
    Path("store/cat/round").symlink_to(Path("store/dog").absolute())
    Path("store/dog/round").symlink_to(Path("store/cat").absolute())
    fetch(settings("dataset.links_into=store", "dataset.maximum_unused=0.5"))
    assert counts() == {"all": {"cat": 3, "dog": 3}}


def test_labels_are_mapped_merged_and_left_out(empty_project: Path):
    draw_all("kitten", "Cat", "dog", "eel")
    fetch(settings("dataset.classes={kitten: cat, Cat: cat, dog: dog}"))
    assert counts() == {"all": {"cat": 6, "dog": 3}}
    assert unused() == {"left out by the setting classes": 3}
    with pytest.raises(InputError, match=r"dataset\.classes names wolf, which the dataset lacks"):
        fetch(settings("dataset.classes={dog: dog, wolf: dog}"))


def test_unequal_classes_are_said(empty_project: Path, capsys: pytest.CaptureFixture):
    draw("cat", 3)
    draw("dog", 30)
    fetch(settings())
    split_stage.split(settings())
    assert "The classes are unequal: 30 dog, 3 cat" in capsys.readouterr().out


def test_days_without_a_class_are_sources_too(empty_project: Path):
    draw_all("2024-01-01/cat", "2024-01-02/cat", "2024-01-03/cat", "2024-01-03/dog")
    fetch(settings())
    assert counts() == {"all": {"cat": 9, "dog": 3}}


def test_a_folder_beside_the_folder_of_the_dataset_is_no_class(empty_project: Path):
    draw_all("data/cat", "data/dog", number=20)
    draw("docs", 2)
    fetch(settings())
    assert counts() == {"all": {"cat": 20, "dog": 20}}
    assert unused() == {"image in a folder beside the classes or splits": 2}


def test_a_class_in_a_format_that_is_not_read_is_not_lost_in_silence(empty_project: Path):
    draw_all("cat", "dog")
    Path("pets/bird").mkdir()
    for index in range(3):
        Path(f"pets/bird/{index}.dcm").write_bytes(b"DICM")
    with pytest.raises(InputError, match=r"(?s)3 of 9 images .*format that is not read\): bird/"):
        fetch(settings())


def test_labels_that_differ_in_spaces_are_refused(empty_project: Path):
    draw_all("cat", "cat ", "dog")
    with pytest.raises(InputError, match=r"'cat' and 'cat ' differ only in .*spaces"):
        fetch(settings())


def test_a_pattern_proposed_for_an_odd_name_matches_it(empty_project: Path):
    for split in ("train", "test"):
        draw_all(f"{split}/cat", f"{split}/dog")
    draw("[un labelled] #1", 9)
    with pytest.raises(InputError) as error:
        fetch(settings())
    pattern = str(error.value).partition("dataset.exclude=[")[2].partition("]. Or")[0]
    fetch(settings(f"dataset.exclude=['{pattern}']"))
    assert unused() == {"excluded by the settings include and exclude": 9}


@pytest.mark.parametrize("names", [("TrainData", "TestData"), ("train2017", "test2017")])
def test_split_folders_with_a_word_or_a_year_in_their_names(
    empty_project: Path, names: tuple[str, str]
):
    for name in names:
        draw_all(f"{name}/cat", f"{name}/dog")
    fetch(settings())
    assert counts() == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 3}}


def test_a_class_without_a_split_of_its_own_keeps_the_splits_of_the_others(empty_project: Path):
    draw_all("cat/train", "cat/test", "dog/train", "dog/test", "eel/train")
    fetch(settings("dataset.positive_class=null"))
    assert counts()["train"] == {"cat": 3, "dog": 3, "eel": 3}
    assert counts()["test"] == {"cat": 3, "dog": 3}


def test_classes_may_be_called_after_one_split(empty_project: Path):
    draw_all("test_positive", "test_negative")
    fetch(settings("dataset.positive_class=test_positive"))
    assert counts() == {"all": {"test_negative": 3, "test_positive": 3}}


def test_photographs_with_a_word_for_masks_in_their_names_are_used(empty_project: Path):
    draw_all("cat", "dog")
    for image in list(Path("pets/cat").iterdir()):
        image.with_stem(image.stem + "_gt").write_bytes(image.read_bytes() + b" ")
    fetch(settings())
    assert counts() == {"all": {"cat": 6, "dog": 3}}
