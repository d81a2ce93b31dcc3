"""corrections.csv: labels that a person changes, and images that a person drops."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.corrections import apply_corrections
from image_classifier.data.labels import LabelledImage
from image_classifier.data.manifest import read_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.split import split

FILE = Path("corrections.csv")
HEAD = "path,label,reason\n"


def settings(*overrides: str) -> Config:
    own = ["dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat"]
    return compose.config_of(*own, *overrides)


@pytest.fixture
def pets(empty_project: Path) -> Path:
    """Twelve images of each class in train, four in test."""
    for number, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (Path("pets") / place).mkdir(parents=True)
        generator = np.random.default_rng(number)
        for index in range(12 if place.startswith("train") else 4):
            pixels = generator.integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(f"pets/{place}/{index}.png")
    fetch(settings())
    return empty_project


def record() -> dict:
    return json.loads(paths.SPLIT.read_text())


def test_labels_change_and_images_are_dropped_and_the_numbers_are_said_once(
    pets: Path, capsys: pytest.CaptureFixture
):
    FILE.write_text(
        HEAD + "train/cat/0.png,dog,a dog\n"
        "train/dog/1.png,cat,\n"
        "\n"
        'test/cat/2.png,dog,"a dog, clearly"\n'
        "train/cat/3.png,drop,two animals\n"
        "train/cat/4.png,cat,\n"
        ",,\n"
    )
    split(settings())
    labels = {row.path: row.label for row in read_manifest()}
    assert labels["train/cat/0.png"] == labels["test/cat/2.png"] == "dog"
    assert labels["train/dog/1.png"] == labels["train/cat/4.png"] == "cat"
    assert len(labels) == 31
    with paths.SKIPPED.open(newline="") as file:
        skipped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert skipped == {"train/cat/3.png": "dropped by corrections.csv: two animals"}
    found = record()
    assert found["corrections"]["relabelled"] == {
        "train/cat/0.png": ["cat", "dog"],
        "train/dog/1.png": ["dog", "cat"],
        "test/cat/2.png": ["cat", "dog"],
    }
    assert found["corrections"]["dropped"] == {"train/cat/3.png": "two animals"}
    by_split = found["corrections"]["by_split"]
    assert by_split.pop("test") == 1
    assert sum(by_split.values()) == 2
    output = capsys.readouterr().out
    (said,) = [remark for remark in found["remarks"] if remark.startswith("corrections.csv: ")]
    assert output.count("corrections.csv: ") == output.count(said) + output.count("dropped by") == 2
    assert re.match(
        r"corrections\.csv: 3 labels changed \(.*1 in test\), 1 image dropped, 1 image had the "
        r"label already, e\.g\. train/cat/4\.png\. The test metrics are measured with changed "
        r"labels\. Correcting only labels that a model disagrees with raises its test metrics",
        said,
    )


def test_without_corrections_nothing_is_said_and_without_those_of_test_no_warning(
    pets: Path, capsys: pytest.CaptureFixture
):
    split(settings())
    assert "corrections.csv" not in capsys.readouterr().out
    assert record()["corrections"] == {"relabelled": {}, "dropped": {}, "by_split": {}}
    assert all(row.label == row.path.split("/")[1] for row in read_manifest())
    FILE.write_text(HEAD + "train/cat/0.png,dog,\n")
    split(settings())
    output = capsys.readouterr().out
    assert "corrections.csv: 1 label changed (1 in " in output
    assert "test metrics are measured" not in output and "disagrees" not in output
    FILE.write_text(HEAD + "test/cat/0.png,drop,\n")
    split(settings())
    output = capsys.readouterr().out
    assert "1 image dropped (1 from the dataset's test split). Correcting only" in output


def test_a_correction_solves_a_contradiction(pets: Path):
    Image.open("pets/train/cat/0.png").save("pets/train/dog/copy.png")
    fetch(settings())
    with pytest.raises(InputError, match="2 images have a duplicate in another class"):
        split(settings())
    FILE.write_text(HEAD + "train/dog/copy.png,cat,\n")
    split(settings())
    assert len(read_manifest()) == 33


def test_all_problems_are_in_one_message_with_their_lines(pets: Path):
    FILE.write_text(
        HEAD + "train/cat/0.png,dog,right\n"
        "train/cat/99.png,dog,\n"
        "train/cat/1.png,horse,\n"
        "train/cat/0.png,drop,\n"
        "train/cat/2.png\n"
        "train/cat/3.png,dog,blurred, dark\n"
        "pets/train/cat/4.png,dog,\n"
        ",dog,\n"
    )
    with pytest.raises(InputError) as error:
        split(settings())
    lines = str(error.value).splitlines()
    assert lines[0] == "dataset.corrections=corrections.csv has 7 problems:"
    assert [line.strip() for line in lines[1:7]] == [
        "line 3: the dataset has no image train/cat/99.png",
        "line 4: horse is not a class of the dataset (cat, dog)",
        "line 5: train/cat/0.png is in line 2, too",
        "line 6: an empty label is not a class of the dataset (cat, dog)",
        "line 7: too many fields; quote a reason that has a comma",
        "and 2 more",
    ]
    assert "build/labels.csv" in lines[7] and "conf/dataset" in lines[7]
    assert not paths.SPLIT.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\n", "must be path,label,reason; reason is missing"),
        (b"a;b;c\n", "path and label and reason are missing"),
        (b"", "path and label and reason are missing"),
        (b'path,label,reason\n"a,b,c\n', "is not CSV after line 1"),
        ("path,label,reason\nü.png,cat,\n".encode("latin-1"), "not in UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str):
    file = tmp_path / "corrections.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        apply_corrections([LabelledImage("a.png", "cat")], "corrections.csv", file)


def test_a_class_called_drop_is_ambiguous_only_where_it_is_written(tmp_path: Path):
    images = [LabelledImage(f"{label}{i}.png", label) for label in ("drop", "lake") for i in (0, 1)]
    file = tmp_path / "corrections.csv"
    file.write_text(HEAD + "drop1.png,lake,\n")
    kept, done = apply_corrections(images, "corrections.csv", file)
    assert len(kept) == 4
    assert done.relabelled == {"drop1.png": ("drop", "lake")}
    file.write_text(HEAD + "lake1.png,drop,\n")
    with pytest.raises(InputError, match=r"line 2: `drop` is also a class.*dataset\.classes"):
        apply_corrections(images, "corrections.csv", file)


def test_a_class_without_images_is_refused_and_excels_files_are_read(tmp_path: Path):
    images = [LabelledImage("a.png", "cat"), LabelledImage("b.png", "dog")]
    file = tmp_path / "corrections.csv"
    file.write_bytes(b"\xef\xbb\xbfpath,label,reason\r\na.png, dog ,\r\n")
    with pytest.raises(InputError, match=r"leaves no image of cat.*dataset\.classes"):
        apply_corrections(images, "corrections.csv", file)
    kept, _ = apply_corrections([*images, LabelledImage("c.png", "cat")], "x", file)
    assert [image.label for image in kept] == ["dog", "dog", "cat"]


def test_a_file_that_does_not_exist_is_named(pets: Path):
    with pytest.raises(InputError, match=r"dataset\.corrections=other\.csv: no such file"):
        split(settings("dataset.corrections=other.csv"))
    Path("other.csv").write_text(HEAD + "train/cat/0.png,dog,\n")
    split(settings("dataset.corrections=other.csv"))
    assert any(text.startswith("other.csv: 1 label changed") for text in record()["remarks"])
