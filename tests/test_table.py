"""Labels from a table beside the images: fetch and split on real files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.labels import read_labels
from image_classifier.data.manifest import read_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.split import split


def settings(*overrides: str) -> Config:
    own = [
        "dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat",
        "dataset.table=labels.csv",
    ]  # fmt: skip
    return compose.config_of(*own, *overrides)


@pytest.fixture
def images(empty_project: Path) -> Path:
    """Sixty images in one folder; the table is for the test to write."""
    generator = np.random.default_rng(0)
    Path("pets/images").mkdir(parents=True)
    for index in range(60):
        pixels = generator.integers(0, 255, (10, 10), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pets/images/{index:03}.png")
    return empty_project


def write(header: str, line: str, name: str = "labels.csv", number: int = 60) -> None:
    """Write a table; {i} in a line is the image's number, {label} its class."""
    lines = [line.format(i=f"{i:03}", label="cat" if i % 2 else "dog") for i in range(number)]
    Path("pets", name).write_text("\n".join([header, *lines]) + "\n")


def counts() -> dict[str, dict[str, int]]:
    return json.loads(paths.FETCHED.read_text())["counts"]


@pytest.mark.parametrize(
    "path", ["{i}", "{i}.png", "{i}.jpg", "images/{i}.png", "./images/{i}",
             "C:\\data\\images\\{i}.png", "/data/pets/images/{i}.png"],
)  # fmt: skip
def test_a_table_names_images_with_and_without_folder_and_ending(images: Path, path: str):
    write("path,label", path + ",{label}")
    fetch(settings())
    assert counts() == {"all": {"cat": 30, "dog": 30}}


@pytest.mark.parametrize(("name", "sign"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", ",")])
def test_the_columns_can_have_other_names_and_separators(images: Path, name: str, sign: str):
    write(sign.join(["id", "dx", "age"]), sign.join(["{i}", "{label}", "7"]), name)
    columns = ["dataset.path_column=id", "dataset.label_column=dx"]
    fetch(settings(f"dataset.table={name}", *columns))
    assert counts() == {"all": {"cat": 30, "dog": 30}}
    with pytest.raises(InputError, match=r"a\.[ct]sv has no column path\. It has id, dx, age"):
        fetch(settings(f"dataset.table={name}"))


def test_splits_groups_and_sources_come_from_the_table(images: Path):
    rows = ["path,label,split,group,source"]
    for i in range(60):
        part = "Training" if i < 40 else "testing"
        rows.append(f"{i:03},{'cat' if i % 2 else 'dog'},{part},p{i // 4},s{i % 3}")
    Path("pets/labels.csv").write_text("\n".join(rows))
    fetch(settings())
    assert counts() == {"train": {"cat": 20, "dog": 20}, "test": {"cat": 10, "dog": 10}}
    split(settings())
    manifest = read_manifest()
    assert {row.group for row in manifest} == {f"p{i}" for i in range(15)}
    assert {row.source for row in manifest} == {"s0", "s1", "s2"}
    splits: dict[str, set[str]] = {}
    for row in manifest:
        splits.setdefault(row.group, set()).add(row.split)
    assert all(len(names) == 1 for names in splits.values())
    fetch(settings("dataset.split_column=null"))
    assert counts() == {"all": {"cat": 30, "dog": 30}}
    with pytest.raises(InputError, match=r"has a group for 60 images already"):
        split(settings("dataset.split_column=null", "dataset.group_pattern='(.)'"))


def test_an_unknown_split_is_refused(images: Path):
    write("path,label,split", "{i},{label},fold3")
    with pytest.raises(InputError, match=r"split has the values 'fold3'; .*split_column=null"):
        fetch(settings())


def test_one_column_for_each_class(images: Path):
    rows = ["image,cat,dog,eel"]
    rows += [f"{i:03},{int(i % 3 == 0)},{float(i % 3 == 1)},{int(i % 3 == 2)}" for i in range(60)]
    Path("pets/labels.csv").write_text("\n".join(rows))
    own = ["dataset.path_column=image", "dataset.label_column=[cat,dog,eel]"]
    fetch(settings(*own, "dataset.positive_class=null"))
    assert counts() == {"all": {"cat": 20, "dog": 20, "eel": 20}}
    Path("pets/labels.csv").write_text("image,cat,dog,eel\n000,1,1,0\n")
    with pytest.raises(InputError, match="a row has the labels cat and dog"):
        fetch(settings(*own, "dataset.positive_class=null"))


def test_what_does_not_fit_is_counted(images: Path, capsys: pytest.CaptureFixture):
    write("path,label", "{i},{label}", number=58)
    with Path("pets/labels.csv").open("a") as file:
        file.write("000,dog\n000,dog\n999,cat\n998,cat\n058,\n")
    fetch(settings())
    output = capsys.readouterr().out
    assert (
        "labels.csv: 63 rows, 2 rows repeat another row (e.g. 000), 2 rows name no image (e.g. 999)"
        in output
    )
    assert "Not used: 1 (image whose row has no label): images/058.png" in output
    assert "Not used: 1 (image without a row in the table): images/059.png" in output
    assert counts() == {"all": {"cat": 29, "dog": 29}}


def test_an_image_with_two_labels_is_a_contradiction(images: Path):
    write("path,label", "{i},{label}")
    with Path("pets/labels.csv").open("a") as file:
        file.write("000,cat\n")
    fetch(settings())
    with pytest.raises(InputError, match=r"(?s)images/000\.png \(cat\) in two classes: exact dup"):
        split(settings())
    split(settings("split.contradictions=drop"))
    assert len(read_manifest()) == 59


@pytest.mark.parametrize("both", ["cat dog", '"cat, dog"', "cat;dog", "dog|cat", "cat+dog"])
def test_several_labels_at_once_are_said(images: Path, capsys: pytest.CaptureFixture, both: str):
    write("path,label", "{i},{label}", number=50)
    with Path("pets/labels.csv").open("a") as file:
        file.writelines(f"{i:03},{both}\n" for i in range(50, 60))
    fetch(settings("dataset.positive_class=null"))
    said = both.strip('"')
    assert f"10 rows of labels.csv have several labels, e.g. {said}:" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["pets", "pets/images"])
def test_a_table_beside_the_images_is_named_when_none_is_set(images: Path, place: str):
    write("id,label", "{i},{label}")
    with pytest.raises(InputError, match=r"(?s)60 .*labels\.csv.*set dataset\.(table|path)"):
        fetch(settings(f"dataset.path={place}", "dataset.table=null"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"path,label\n000,cat,1\n", "row 2 has 3 values, the header has 2"),
     (b"path,label\n000,\xff\xfe\n", "is not in UTF-8"), (b"path\n000\n", "first line must have"),
     (b"path,label\nx,cat\n", "No row of labels.csv names an image"),
     (b"", "first line must have")],
)  # fmt: skip
def test_a_wrong_table_is_refused(images: Path, content: bytes, message: str):
    Path("pets/labels.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        fetch(settings())


@pytest.mark.parametrize("table", ["missing.csv", "../secret.csv"])
def test_a_table_that_is_not_in_the_folder_is_refused(images: Path, table: str):
    Path("secret.csv").write_text("path,label\n")
    with pytest.raises(InputError, match="no such file in pets"):
        fetch(settings(f"dataset.table={table}"))


def test_the_same_images_in_folders_and_in_a_table_have_the_same_manifest(images: Path):
    write("path,label,split", "{i},{label},train")
    text = Path("pets/labels.csv").read_text().splitlines()
    text[40:] = [line.replace("train", "test") for line in text[40:]]
    Path("pets/labels.csv").write_text("\n".join(text))
    fetch(settings())
    split(settings())
    of_table = read_manifest()
    for line in text[1:]:
        name, label, part = line.split(",")
        target = Path("folders") / part / label / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(f"pets/images/{name}.png").read_bytes())
    config = settings("dataset.path=folders", "dataset.table=null")
    fetch(config)
    split(config)
    of_folders = read_manifest()
    assert [vars(row) | {"path": ""} for row in of_table] == [
        vars(row) | {"path": ""} for row in of_folders
    ]


def test_the_labels_file_is_checked(images: Path):
    write("path,label", "{i},{label}")
    fetch(settings())
    paths.LABELS.write_text("a,b\n")
    with pytest.raises(InputError, match=r"labels\.csv is damaged.*dvc repro -f -s fetch"):
        read_labels(paths.LABELS, "fetch")


def test_missing_values_are_no_labels_and_no_groups(images: Path):
    rows = ["path,label,group"]
    for i in range(60):
        label = "nan" if i < 3 else "cat" if i % 2 else "dog"
        rows.append(f"{i:03},{label},{'N/A' if i % 2 else f'p{i}'}")
    Path("pets/labels.csv").write_text("\n".join(rows))
    fetch(settings())
    assert counts() == {"all": {"cat": 29, "dog": 28}}
    assert {image.group for image in read_labels(paths.LABELS, "") if image.label == "cat"} == {""}


def test_what_a_table_names_is_no_mask(images: Path):
    for i in range(0, 60, 2):
        Path(f"pets/images/{i + 1:03}.png").rename(f"pets/images/{i:03}_mask.png")
    rows = [f"{i:03},dog\n{i:03}_mask,cat" for i in range(0, 60, 2)]
    Path("pets/labels.csv").write_text("path,label\n" + "\n".join(rows))
    fetch(settings())
    assert counts() == {"all": {"cat": 30, "dog": 30}}


def test_rows_that_differ_in_the_source_only_are_one_image(images: Path):
    write("path,label,source", "{i},{label},north")
    with Path("pets/labels.csv").open("a") as file:
        file.write("000,dog,south\n")
    fetch(settings())
    assert counts() == {"all": {"cat": 30, "dog": 30}}


def test_a_row_of_train_does_not_name_a_file_of_test(images: Path):
    Path("pets/images").rename("pets/test")
    write("path,label", "train/{i}.png,{label}")
    with pytest.raises(InputError, match=r"No row of labels\.csv names an image"):
        fetch(settings())


def test_a_value_that_is_too_long_is_refused_without_a_traceback(images: Path):
    Path("pets/labels.csv").write_text('path,label\n"' + "x" * 200_000)
    with pytest.raises(InputError, match=r"labels\.csv cannot be read as a table"):
        fetch(settings())


def test_a_value_may_contain_line_breaks(images: Path):
    write("path,label,note", '{i},{label},"two\nlines\x0b"')
    fetch(settings())
    assert counts() == {"all": {"cat": 30, "dog": 30}}


def test_one_table_for_each_split(images: Path):
    for name, number in (("train", 40), ("test", 20)):
        (images / "pets" / name).mkdir()
        for i in range(number):
            source = f"pets/images/{i:03}.png"
            Image.open(source).point(lambda v, n=name: v if n == "train" else 255 - v).save(
                f"pets/{name}/{i:03}.png"
            )
        write("path,label", "{i},{label}", f"{name}/_labels.csv", number)
    own = ["dataset.table=[train/_labels.csv,test/_labels.csv]", "dataset.exclude=[/images/]"]
    fetch(settings(*own))
    assert counts() == {"train": {"cat": 20, "dog": 20}, "test": {"cat": 10, "dog": 10}}
    for name, number in (("train", 40), ("test", 20)):
        write("path,label", "{i},{label}", f"{name}.csv", number)
    fetch(settings("dataset.table=[train.csv,test.csv]", "dataset.exclude=[/images/]"))
    assert counts() == {"train": {"cat": 20, "dog": 20}, "test": {"cat": 10, "dog": 10}}


def test_folders_have_the_classes_and_the_table_the_groups(images: Path):
    for i in range(60):
        label = "cat" if i % 2 else "dog"
        (images / "pets" / label).mkdir(exist_ok=True)
        Path(f"pets/images/{i:03}.png").rename(f"pets/{label}/{i:03}.png")
    (images / "pets" / "images").rmdir()
    rows = [f"{i:03},p{i // 4}" for i in range(58)]
    Path("pets/labels.csv").write_text("path,group\n" + "\n".join(rows))
    fetch(settings("dataset.label_column=null"))
    assert counts() == {"all": {"cat": 29, "dog": 29}}
    split(settings())
    assert {row.group for row in read_manifest()} == {f"p{i}" for i in range(15)}
    for name, label in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        (images / "pets" / name / label).mkdir(parents=True)
        for i in range(20, 60) if name == "train" else range(20):
            if (old := Path(f"pets/{label}/{i:03}.png")).exists():
                old.rename(f"pets/{name}/{label}/{i:03}.png")
    for label in ("cat", "dog"):
        Path(f"pets/{label}").rmdir()
    fetch(settings("dataset.label_column=null"))  # splits of the folders stay
    assert counts() == {"test": {"cat": 10, "dog": 10}, "train": {"cat": 19, "dog": 19}}


@pytest.mark.parametrize("column", ["is_train", "is_training_image", "is_test"])
@pytest.mark.parametrize("values", [("1", "0"), ("True", "False")])
def test_a_column_of_0_and_1_can_have_the_splits(
    images: Path, column: str, values: tuple[str, str]
):
    rows = [f"path,label,{column}"]
    for i in range(60):
        chosen = (i < 40) == (column != "is_test")
        rows.append(f"{i:03},{'cat' if i % 2 else 'dog'},{values[not chosen]}")
    Path("pets/labels.csv").write_text("\n".join(rows))
    fetch(settings(f"dataset.split_column={column}"))
    assert counts() == {"train": {"cat": 20, "dog": 20}, "test": {"cat": 10, "dog": 10}}


def test_rows_without_a_split_are_counted_and_too_many_are_refused(images: Path):
    rows = ["path,label,split"]
    for i in range(60):
        part = "unused" if i > 55 else "train" if i < 40 else "test"
        rows.append(f"{i:03},{'cat' if i % 2 else 'dog'},{part}")
    Path("pets/labels.csv").write_text("\n".join(rows))
    fetch(settings())
    assert counts() == {"train": {"cat": 20, "dog": 20}, "test": {"cat": 8, "dog": 8}}
    assert json.loads(paths.FETCHED.read_text())["unused"] == {"image whose row names no split": 4}
    with pytest.raises(InputError, match="4 of 60 images would not be used"):
        fetch(settings("dataset.maximum_unused=0.05"))


def test_a_table_without_a_header_is_refused(images: Path):
    write("000,dog", "{i},{label}")
    with pytest.raises(InputError, match="image 000, so the table has no header"):
        fetch(settings("dataset.path_column=000", "dataset.label_column=dog"))


def test_a_label_that_hydra_would_read_as_a_reference_is_refused(images: Path):
    write("path,label", "{i},${{{label}}}")  # ${cat} and ${dog}
    with pytest.raises(InputError, match=r"The label \$\{dog\} contains \$\{"):
        fetch(settings())
