"""Sets from elsewhere: brought by a stage, measured beside the test images."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from conftest import Project, copy_of
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.external import external
from phantoms.drawing import phantom


def settings(*overrides: str) -> Config:
    return compose.config_of(*overrides)


@pytest.fixture
def fetched(empty_project: Path) -> Path:
    paths.FETCHED.parent.mkdir(parents=True)
    paths.FETCHED.write_text(json.dumps({"counts": {"all": {"COVID19": 1, "NORMAL": 1}}}))
    for label in ("COVID19", "NORMAL"):
        (empty_project / "north" / label).mkdir(parents=True)
        Image.new("L", (9, 9)).save(empty_project / "north" / label / "a.png")
    return empty_project


def test_without_sets_there_is_nothing_to_do(fetched: Path):
    external(settings())
    assert json.loads(paths.EXTERNAL_RECORD.read_text())["sets"] == {}


def test_a_set_may_have_one_class_only(fetched: Path):
    shutil.rmtree("north/COVID19")
    external(settings("+external.north.path=north"))
    assert (paths.EXTERNAL / "north/NORMAL/a.png").is_file()


def test_a_class_that_the_dataset_lacks_is_refused_by_name(fetched: Path):
    Path("north/NORMAL").rename("north/HEALTHY")
    with pytest.raises(InputError, match=r"external\.north has the class HEALTHY.*NORMAL"):
        external(settings("+external.north.path=north"))
    assert not paths.EXTERNAL.exists()


def test_a_missing_folder_is_refused(fetched: Path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        external(settings("+external.north.path=nowhere"))


def test_a_set_needs_a_path_or_a_url():
    with pytest.raises(InputError, match="either path"):
        settings("+external.north.revision=x")


def test_external_sets_go_through_the_pipeline_with_their_drop(project: Project, tmp_path: Path):
    """Healthy phantoms upside down and inverted, some of the dataset's own, and a broken file."""
    copy = copy_of(project, tmp_path / "project")
    folder = tmp_path / "south" / "NORMAL"
    folder.mkdir(parents=True)
    for index in range(12):
        image = Image.fromarray(255 - phantom((77, index), False, (96, 96))[::-1])
        image.save(folder / f"{index}.png")
    for path in sorted((copy.folder / "data/train/NORMAL").glob("*.jpg"))[:3]:
        shutil.copy(path, folder / path.name)
    (folder / "broken.png").write_text("text")
    params = copy.folder / "params.yaml"
    params.write_text(
        params.read_text().replace(
            "external: {}", f"external: {{south: {{path: {folder.parent}}}}}"
        )
    )
    output = copy.run("dvc", "repro", "evaluate")
    assert "Running stage 'external'" in output
    assert "Running stage 'train'" not in output
    report = copy.read("build/evaluate/report.json")
    found = report["external"]["south"]
    assert (found["images"], found["duplicates"], found["unreadable"]) == (12, 3, 1)
    assert list(found["classes"]) == ["NORMAL"]
    test = report["test"]["specificity"]["value"]
    normal = found["classes"]["NORMAL"]
    assert normal["drop"] == pytest.approx(test - normal["accuracy"])
    card = (copy.folder / "build/evaluate/model_card.md").read_text()
    assert "| south | NORMAL | 12 |" in card
    assert "3 duplicates of the dataset's own images were excluded" in card
