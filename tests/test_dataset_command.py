"""`image-classifier dataset` looks at a folder, and `dvc repro` is the next and only command."""

import re
import shutil
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from conftest import Project, new_project


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that has run nothing."""
    return new_project(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def project(plain: Project, tmp_path: Path) -> Project:
    shutil.copytree(plain.folder, tmp_path / "project")
    return Project(tmp_path / "project")


def draw(folder: Path, number: int, pattern: str = "{:02}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(str(folder).encode()))
    for index in range(number):
        pixels = generator.integers(0, 255, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / pattern.format(index))


def written(project: Project, name: str) -> dict:
    return yaml.safe_load((project.folder / f"conf/dataset/{name}.yaml").read_text())


def test_a_repository_is_looked_at_and_fetched(project: Project, tmp_path: Path):
    folder = tmp_path / "Pets Repo"
    draw(folder / "data" / "normal", 20)
    draw(folder / "data" / "sick", 20)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        Project(folder).run("git", *command)
    output = project.command("dataset", str(folder), "--revision", "HEAD", "--subfolder", "data")
    assert "40 images of 2 classes" in output
    settings = written(project, "pets_repo")
    assert settings["url"] == str(folder)
    assert settings["subfolder"] == "data"
    assert settings["positive_class"] == "sick"
    assert settings["depends_on"] == "conf/dataset/pets_repo.yaml"
    assert "40 images" in project.command("fetch")
    project.command("split")


def test_a_table_is_found_with_its_columns(project: Project, tmp_path: Path):
    draw(tmp_path / "skin" / "photos", 60, "ISIC_{:03}.png")
    rows = [f"ISIC_{i:03},L{i // 3},{['mel', 'nv', 'bcc'][i // 3 % 3]},{i}" for i in range(60)]
    table = "image_id,lesion_id,dx,age\n" + "\n".join(rows)
    (tmp_path / "skin" / "metadata.csv").write_text(table)
    output = project.command("dataset", str(tmp_path / "skin"))
    assert "Its columns: image_id, lesion_id, dx, age" in output
    settings = written(project, "skin")
    assert settings["table"] == "metadata.csv"
    assert settings["path_column"] == "image_id"
    assert settings["label_column"] == "dx"
    assert settings["group_column"] == "lesion_id"
    project.command("fetch")
    assert "20 groups, for 60 of 60 images" in project.command("split")


def test_columns_of_0_and_1_are_found(project: Project, tmp_path: Path):
    draw(tmp_path / "skin" / "photos", 30)
    rows = [f"{i:02},{int(i % 2 == 0)}.0,{int(i % 2 == 1)}.0" for i in range(30)]
    (tmp_path / "skin" / "truth.csv").write_text("image,MEL,NV\n" + "\n".join(rows))
    project.command("dataset", str(tmp_path / "skin"))
    assert written(project, "skin")["label_column"] == ["MEL", "NV"]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ("{label}/patient{group:03}/study1/{index}.png", 24),
        ("{label}/person{group}_virus_{index}.png", 24),
        ("{label}/IM-{group:04}-{index:04}.png", 24),
        ("{label}/shot{group}_jpg.rf.{index}abcdef01{group:04}.png", 24),
        ("{label}/{group:02}_{index}.png", 24),
        ("{label}/{index}x{group}.png", 0),
    ],
)
def test_groups_are_guessed_from_names_and_folders(
    project: Project, tmp_path: Path, names: str, groups: int
):
    generator = np.random.default_rng(0)
    for group in range(24):
        for index in range(3):
            label = "sick" if group % 2 else "normal"
            path = tmp_path / "set" / names.format(label=label, group=group, index=index)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 255, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    output = project.command("dataset", str(tmp_path / "set"))
    if groups:
        assert re.search(rf"Groups: the paths of 72 of 72 images name {groups} groups", output)
        assert written(project, "set")["group_pattern"]
    else:
        assert "Groups: none found in the paths" in output


def test_what_would_not_be_used_is_excluded_and_said(project: Project, tmp_path: Path):
    folder = tmp_path / "set"
    for split in ("train", "test"):
        draw(folder / split / "yes", 20)
        draw(folder / split / "no", 20)
    draw(folder / "pred", 30)
    output = project.command("dataset", str(folder))
    assert "Not used: 30 (image in a folder beside the classes or splits): pred/00.png" in output
    settings = written(project, "set")
    assert settings["exclude"] == ["/pred/"]
    assert settings["positive_class"] == "yes"  # a text, not a truth value
    assert "80 images" in project.command("fetch")


def test_links_lead_to_the_folder_that_the_settings_name(project: Project, tmp_path: Path):
    draw(tmp_path / "store", 40)
    for index, image in enumerate(sorted((tmp_path / "store").iterdir())):
        link = tmp_path / "set" / ("cat" if index % 2 else "dog") / image.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image)
    project.command("dataset", str(tmp_path / "set"))
    assert written(project, "set")["links_into"] == str(tmp_path / "store")
    assert "40 images" in project.command("fetch")


def test_labels_that_differ_in_case_are_merged_and_tiny_classes_left_out(
    project: Project, tmp_path: Path
):
    for label, number in (("Cat", 20), ("cat", 10), ("dog", 20), ("eel", 2), ("fox", 20)):
        draw(tmp_path / "set" / label, number)
    output = project.command("dataset", str(tmp_path / "set"))
    assert written(project, "set")["classes"] == {
        "Cat": "Cat", "cat": "Cat", "dog": "dog", "fox": "fox",
    }  # fmt: skip
    assert "70 images of 3 classes" in output
    assert "with fewer than 5 images or several labels at once: eel" in output


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: draw(folder, 10, "cat{:02}.png"), "10 images. Put the images of each"),
        (lambda folder: [draw(folder, 10, f"{name}{{:02}}.png") for name in ("cat", "dog")],
         r"The names begin with cat (10), dog (10)"),
        (lambda folder: draw(folder / "cat", 10), "images in the folder cat"),
        (lambda folder: None, "no such folder"),
    ],
)  # fmt: skip
def test_a_folder_without_two_classes_changes_nothing(
    project: Project, tmp_path: Path, make, message: str
):
    make(tmp_path / "set")
    before = (project.folder / "conf/config.yaml").read_text()
    assert message in project.command("dataset", str(tmp_path / "set"), code=1)
    assert (project.folder / "conf/config.yaml").read_text() == before
    assert not (project.folder / "conf/dataset/set.yaml").exists()


def test_an_existing_name_is_refused(project: Project, tmp_path: Path):
    draw(tmp_path / "git" / "cat", 10)
    output = project.command("dataset", str(tmp_path / "git"), code=1)
    assert "git.yaml exists already: remove it, or give another --name" in output
    output = project.command("dataset", str(tmp_path / "git"), "--name", "My Set", code=1)
    assert "use lower-case letters, digits and underscores" in output


def test_splits_that_lack_a_class_are_drawn_and_unknown_classes_left_out(
    project: Project, tmp_path: Path
):
    folder = tmp_path / "set"
    for path in ("train/a", "train/b", "val/a", "test/a", "test/b", "test/other"):
        draw(folder / path, 20)
    output = project.command("dataset", str(folder))
    settings = written(project, "set")
    assert settings["exclude"] == ["/val/"]
    assert settings["classes"] == {"a": "a", "b": "b"}
    assert "the dataset's own validation has no images of b: it is not used" in output
    project.command("fetch")
    project.command("split")


def test_a_table_as_spreadsheets_write_it(project: Project, tmp_path: Path):
    draw(tmp_path / "set" / "bilder", 40)
    rows = [f"{i:02}.png;{'Müll' if i % 2 else 'Öl'};;" for i in range(40)]
    table = "\ufeffsep=;\r\nDatei;Klasse;;\r\n"
    (tmp_path / "set" / "Tabelle.csv").write_text(table + "\r\n".join(rows), newline="")
    project.command("dataset", str(tmp_path / "set"))
    settings = written(project, "set")
    assert (settings["path_column"], settings["label_column"]) == ("Datei", "Klasse")
    assert "20 Müll, 20 Öl" in project.command("fetch")


def test_a_split_column_with_other_names_is_said(project: Project, tmp_path: Path):
    draw(tmp_path / "set" / "images", 40)
    rows = [f"{i:02},{'a' if i % 2 else 'b'},{i % 3}" for i in range(40)]
    (tmp_path / "set" / "t.csv").write_text("id,label,split\n" + "\n".join(rows))
    output = project.command("dataset", str(tmp_path / "set"))
    assert "The column split is not used" in output
    assert "'0', '1', '2'" in output


def test_the_table_with_a_column_of_labels_is_chosen(project: Project, tmp_path: Path):
    draw(tmp_path / "set" / "train", 40)
    draw(tmp_path / "set" / "test", 60, "t{:02}.png")
    for name, header, line, number in (
        ("train.csv", "id,label", "{i:02},{label}", 40),
        ("people.csv", "id,sex", "{i:02},{label}", 40),
        ("sample_submission.csv", "id,label", "t{i:02},0", 60),
    ):
        rows = [line.format(i=i, label="a" if i % 2 else "b") for i in range(number)]
        (tmp_path / "set" / name).write_text("\n".join([header, *rows]))
    project.command("dataset", str(tmp_path / "set"))
    assert written(project, "set")["table"] == "train.csv"


def test_labels_in_two_encodings_of_the_same_letters_are_merged(project: Project, tmp_path: Path):
    for form in ("NFC", "NFD"):
        draw(tmp_path / "set" / unicodedata.normalize(form, "Müll"), 10)
    draw(tmp_path / "set" / "glas", 20)
    output = project.command("dataset", str(tmp_path / "set"))
    assert "40 images of 2 classes" in output


def test_no_group_is_guessed_that_would_empty_the_datasets_own_test_split(
    project: Project, tmp_path: Path
):
    for split in ("train", "test"):
        for label in ("apple", "pear"):
            for index in range(15):
                draw(tmp_path / "set" / split / label, 2, f"{index}_{{}}.png")
    output = project.command("dataset", str(tmp_path / "set"))
    assert "Some names in the paths (numbered series) occur in more than one split" in output
    assert "group_pattern" not in written(project, "set")


def test_a_split_of_which_all_images_leak_is_not_drawn_again(project: Project, tmp_path: Path):
    for label in ("apple", "pear"):
        draw(tmp_path / "set" / "train" / label, 20)
        shutil.copytree(tmp_path / "set/train" / label, tmp_path / "set/test" / label)
    project.command("dataset", str(tmp_path / "set"))
    project.command("fetch")
    output = project.command("split", code=1)
    assert "40 images occur in two splits" in output
    assert "No image is left for test/" in output


def test_a_split_that_lacks_a_class_is_left_out_also_inside_the_classes(
    project: Project, tmp_path: Path
):
    for path in ("a/train", "b/train", "a/test"):
        draw(tmp_path / "set" / path, 20)
    project.command("dataset", str(tmp_path / "set"))
    assert written(project, "set")["exclude"] == ["/a/test/"]
    assert "all: 20 a, 20 b" in project.command("fetch")


def test_labels_that_differ_in_case_between_splits_are_merged(project: Project, tmp_path: Path):
    for path in ("train/Cat", "train/Dog", "test/cat", "test/dog"):
        draw(tmp_path / "set" / path, 20)
    project.command("dataset", str(tmp_path / "set"))
    assert "test: 20 Cat, 20 Dog" in project.command("fetch")


def test_a_table_counts_more_than_numbered_folders(project: Project, tmp_path: Path):
    rows = ["file,label"]
    for video in range(12):
        draw(tmp_path / "set" / "frames" / f"video{video}", 20)
        rows += [f"frames/video{video}/{i:02}.png,{'a' if i % 3 else 'b'}" for i in range(20)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(rows))
    output = project.command("dataset", str(tmp_path / "set"))
    assert "look like numbers, not like classes" in output
    assert "all: 156 a, 84 b" in project.command("fetch")
    assert written(project, "set")["group_pattern"]  # no video is in two splits


def test_a_table_beside_class_folders_has_the_groups(project: Project, tmp_path: Path):
    rows = ["file,patient_id"]
    for label in ("healthy", "sick"):
        draw(tmp_path / "set" / label, 30, label + "{:02}.png")
        rows += [f"{label}{i:02}.png,{label}{i // 3}" for i in range(30)]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(rows))
    output = project.command("dataset", str(tmp_path / "set"))
    assert "the folders are the classes; the table has the groups in patient_id" in output
    project.command("fetch")
    assert "20 groups, for 60 of 60 images" in project.command("split")


def test_the_tables_of_all_splits_are_used(project: Project, tmp_path: Path):
    for name, number in (("train", 40), ("valid", 10), ("test", 10)):
        draw(tmp_path / "set" / name, number, name + "{:02}.png")
        rows = ["filename,cat,dog"]
        rows += [f"{name}{i:02}.png,{i % 2},{1 - i % 2}" for i in range(number)]
        (tmp_path / "set" / name / "_classes.csv").write_text("\n".join(rows))
    project.command("dataset", str(tmp_path / "set"))
    output = project.command("fetch")
    for line in ("train: 20 cat, 20 dog", "validation: 5 cat, 5 dog", "test: 5 cat, 5 dog"):
        assert line in output


def test_a_number_that_starts_again_in_every_class_is_no_group(project: Project, tmp_path: Path):
    for label in ("a", "b", "c"):
        for index in range(20):
            draw(tmp_path / "set" / label, 2, f"{index}_{{}}.png")
    assert "Groups: none found" in project.command("dataset", str(tmp_path / "set"))


def test_what_split_will_refuse_is_said_before(project: Project, tmp_path: Path):
    for label in ("a", "b"):
        draw(tmp_path / "set" / label, 20, label + "{:02}.png")
    rows = ["path,label,patient"]
    rows += [f"{name}{i:02},{name},{name}{i % 2}" for name in ("a", "b") for i in range(20)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(rows))
    output = project.command("dataset", str(tmp_path / "set"))
    assert "a has 2 groups, but each of the three splits needs one" in output
    for label in ("a", "b"):
        for index in range(4):
            (tmp_path / "set" / label / f"broken{index}.png").write_bytes(b"x")
    (tmp_path / "set" / "labels.csv").unlink()
    output = project.command("dataset", str(tmp_path / "set"), "--name", "broken")
    assert "8 of them cannot be opened" in output
    assert "stops if their share is larger than split.maximum_unreadable" in output
