"""What is worth a look in a dataset is found, and what is usual in it is not."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from conftest import ROOT
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.findings import (
    Finding,
    find,
    outliers,
    read_findings,
    summarize_findings,
    write_findings,
)
from image_classifier.data.labels import LabelledImage
from image_classifier.data.leaks import ScannedImage
from image_classifier.data.near_duplicates import fingerprint
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.split import split
from phantoms.drawing import phantom

PETS = Path("pets")


def settings(*overrides: str) -> Config:
    own = ["dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=b"]
    return compose.config_of(*own, *overrides)


def draw(seed: int) -> Image.Image:
    return Image.fromarray(phantom((seed,), seed % 2 == 1, (96, 96)))


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)))


def light(image: Image.Image, lowest: float, factor: float) -> Image.Image:
    return Image.fromarray((lowest + factor * np.asarray(image, float)).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blank": lambda image: Image.new("L", image.size, int(np.asarray(image).mean())),
    "dark": lambda image: light(image, 0, 0.1),
    "bright": lambda image: light(image, 215, 0.15),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "odd size": lambda image: scaled(image, 2.5),
    "odd aspect ratio": lambda image: image.crop((0, 30, image.width, 66)),
}


@pytest.fixture
def usual(empty_project: Path) -> Path:
    """80 phantoms of two classes."""
    for index in range(80):
        folder = PETS / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        draw(index).save(folder / f"{index:03}.png")
    return empty_project


def found() -> dict[str, set[str]]:
    """The paths of the findings of each kind."""
    kinds: dict[str, set[str]] = {}
    for finding in read_findings():
        kinds.setdefault(finding.kind, set()).add(finding.path)
    return kinds


def test_changed_images_and_copies_are_found_and_said(usual: Path, capsys: pytest.CaptureFixture):
    planted: dict[str, set[str]] = {}
    for number, (kind, change) in enumerate(CHANGES.items()):
        for index in (10 * number, 10 * number + 1):
            path = PETS / "ab"[index % 2] / f"{index:03}.png"
            with Image.open(path) as image:
                change(image).save(path)
            planted.setdefault(kind, set()).add(path.relative_to(PETS).as_posix())
    draw(70).save(PETS / "a" / "exact.png")
    scaled(draw(72), 0.8).save(PETS / "a" / "near.jpg", quality=70)
    planted["exact copy"] = {"a/070.png", "a/exact.png"}
    planted["near copy"] = {"a/072.png", "a/near.jpg"}
    fetch(settings())
    split(settings())
    kinds = found()
    # a strip that is stretched to a square looks blurred, too
    assert kinds["blurred"] - planted["odd aspect ratio"] == planted["blurred"]
    assert {**kinds, "blurred": planted["blurred"]} == planted
    output = capsys.readouterr().out
    assert f"findings, all in {paths.FINDINGS}:" in output
    for kind in planted:
        (line,) = [line for line in output.splitlines() if line.startswith(f"  {kind}: ")]
        example = next(finding for finding in read_findings() if finding.kind == kind)
        assert line == f"  {kind}: {len(kinds[kind])}, e.g. {example.path}: {example.detail}"
    details = {finding.path: finding.detail for finding in read_findings()}
    assert details["a/exact.png"] == "exact copy of a/070.png"
    assert details["a/near.jpg"].startswith("near copy of a/072.png, ")
    counts = json.loads(paths.SPLIT.read_text())["findings"]
    assert {kind: sum(by_split.values()) for kind, by_split in counts.items()} == {
        kind: len(names) for kind, names in kinds.items()
    }


def test_the_embedded_images_have_no_findings(empty_project: Path, capsys: pytest.CaptureFixture):
    config = compose.config_of(f"dataset.path={ROOT / 'data'}")
    fetch(config)
    split(config)
    assert read_findings() == []
    assert paths.FINDINGS.read_text() == "path,label,split,kind,detail\n"
    assert json.loads(paths.SPLIT.read_text())["findings"] == {}
    assert "findings: none\n" in capsys.readouterr().out


def scan(images: list[Image.Image], folder: Path, groups: list[str]) -> list[ScannedImage]:
    """The images as split sees them: all of class a."""
    scanned = []
    for index, (image, group) in enumerate(zip(images, groups, strict=True)):
        path = folder / f"{index:03}.png"
        image.save(path)
        scanned.append(ScannedImage(LabelledImage(path.name, "a"), group, "", fingerprint(path)))
    return scanned


def kinds_of(images: list[Image.Image], folder: Path) -> set[str]:
    scanned = scan(images, folder, [""] * len(images))
    return {
        finding.kind for finding in find(scanned, dict.fromkeys(range(len(images)), "train"), [])
    }


def test_what_is_usual_in_a_dataset_is_no_finding(tmp_path: Path):
    usual = [draw(index) for index in range(30)]
    dark = CHANGES["dark"]
    # all images are dark; a tenth is: another time of the day
    assert kinds_of([dark(image) for image in usual], tmp_path) == set()
    assert kinds_of([*map(dark, usual[:3]), *usual[3:]], tmp_path) == set()
    assert kinds_of([dark(usual[0]), *usual[1:]], tmp_path) == {"dark"}
    # two sizes, both often
    assert kinds_of([scaled(image, 4) for image in usual[:5]] + usual[5:], tmp_path) == set()
    # one image is turned by 90 degrees
    wide = [image.crop((0, 10, 96, 80)) for image in usual]
    assert kinds_of([wide[0].transpose(Image.Transpose.ROTATE_90), *wide[1:]], tmp_path) == set()
    # too few images to know what is usual, but a blank one needs no comparison
    assert kinds_of([dark(usual[0]), *usual[1:10]], tmp_path) == set()
    assert kinds_of([CHANGES["blank"](usual[0]), *usual[1:10]], tmp_path) == {"blank"}


def test_images_with_more_than_8_bits_have_no_brightness_yet(tmp_path: Path):
    deep = [Image.fromarray(np.asarray(draw(index), np.uint16) * 200) for index in range(30)]
    spot = np.asarray(deep[0]).copy()
    spot[5, 5] = 65535  # one defective pixel makes the small copy dark
    spot[6:] //= 20
    assert kinds_of([Image.fromarray(spot), *deep[1:]], tmp_path) == set()


def test_an_outlier_is_far_from_the_median_and_has_few_like_it():
    values = np.random.default_rng(0).normal(0, 0.1, 200)
    assert not outliers(values, 1.0).any()
    values[:3] = 3, -3, 0.9
    assert np.flatnonzero(outliers(values, 1.0)).tolist() == [0, 1]
    assert np.flatnonzero(outliers(values, 1.0, "low")).tolist() == [1]
    values[:20] = 3
    assert not outliers(values, 1.0).any()  # a tenth of the images is so
    values[:20] = 0.3
    assert not outliers(20 * values[17:], 1.0).any()  # far, but usual where values vary much
    assert np.flatnonzero(outliers(np.array([0.0] * 30 + [1.2]), 1.0)).tolist() == [30]


def test_a_group_that_is_much_of_a_split_is_a_finding(tmp_path: Path):
    images = [draw(index) for index in range(40)]
    groups = ["big"] * 4 + ["two"] * 2 + [""] * 24 + ["c"] + ["other"] * 9
    scanned = scan(images, tmp_path, groups)
    splits = {index: "test" if index < 30 else "train" for index in range(40)}
    large = [item for item in find(scanned, splits, []) if item.kind == "large group"]
    assert [(item.path, item.split, item.detail) for item in large] == [
        (
            "000.png",
            "test",
            "group big: 4 of 30 images of test, which has 26 independent groups",
        ),
        (
            "031.png",
            "train",
            "group other: 9 of 40 images of class a, which has 28 independent groups; 9 of 10 "
            "images of train, which has 2 independent groups",
        ),
    ]
    assert not find(scanned[:30], dict.fromkeys(range(4, 30), "test"), [])


def test_a_table_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path: Path):
    file = tmp_path / "findings.csv"
    with pytest.raises(InputError, match="dvc repro split"):
        read_findings(file)
    findings = [
        Finding('a, "b".png', "cat", "test", "suspected label", "dog 0.98, cat 0.01"),
        Finding("c.png", "dog", "train", "dark", "brightness 4 of 255, the median is 110"),
    ]
    write_findings(findings, file)
    assert read_findings(file) == findings
    assert len(summarize_findings(findings)) == 3
    with file.open("a", newline="") as opened:
        csv.writer(opened).writerow(["d.png", "dog", "train", "ugly", ""])
    with pytest.raises(InputError, match=r"d\.png is not a finding.*dvc repro -f -s split"):
        read_findings(file)
    file.write_text("path,label\n")
    with pytest.raises(InputError, match="its columns are not path, label, split, kind, detail"):
        read_findings(file)
