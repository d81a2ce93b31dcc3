"""The paths in settings: relative ones, `~`, and those of queued experiments."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from conftest import Project, new_project
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.external import external
from image_classifier.stages.fetch import fetch
from image_classifier.training import backbones


def draw(folder: Path, number: int = 1) -> None:
    """Write images of a cat and of a dog."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(number):
            Image.new("RGB", (9, 9), (index, 0, 0)).save(folder / label / f"{index}.png")


def settings(path: str, *overrides: str) -> Config:
    pets = ["dataset=folder", "dataset.name=pets", "dataset.positive_class=cat"]
    return compose.config_of(*pets, f"dataset.path='{path}'", *overrides)


@pytest.fixture
def home(empty_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, beside the project's folder."""
    (empty_project / "home").mkdir()
    (empty_project / "project").mkdir()
    monkeypatch.setenv("HOME", str(empty_project / "home"))
    monkeypatch.chdir(empty_project / "project")
    return empty_project / "home"


@pytest.fixture
def queued(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, while this process runs in a copy, as DVC runs a queued experiment."""
    project = Path.cwd()
    copy = project / ".dvc/tmp/exps/copy"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(copy)
    return project


def test_the_home_folder_is_found_by_every_setting(home: Path):
    draw(home / "pets")
    draw(home / "store")
    Path(home / "pets/cat/link.png").symlink_to(home / "store/cat/0.png")
    config = settings(
        "~/pets", "dataset.links_into='~/store'", "+external.north.path='~/store'",
        "+external.north.links_into='~/pets'",
    )  # fmt: skip
    assert config.dataset.depends_on == str(home / "pets")
    fetch(config)
    assert json.loads(paths.FETCHED.read_text())["counts"] == {"all": {"cat": 2, "dog": 1}}
    assert json.loads(paths.FETCHED.read_text())["source"] == "~/pets"
    external(config)
    assert (paths.EXTERNAL / "north/cat/0.png").is_file()


def test_a_local_repository_may_be_in_the_home_folder(home: Path):
    draw(home / "pets")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        Project(home / "pets").run("git", *command)
    repository = ["dataset=git", "dataset.name=pets", "dataset.url='~/pets'"]
    fetch(compose.config_of(*repository, "dataset.positive_class=cat"))
    assert json.loads(paths.FETCHED.read_text())["counts"] == {"all": {"cat": 1, "dog": 1}}


def test_weights_may_be_in_the_home_folder_or_the_projects(queued: Path, home: Path):
    (home / "x.keras").touch()
    (queued / "x.keras").touch()
    (queued / "x.weights.h5").touch()

    def file(*overrides: str) -> Path | None:
        config = compose.config_of("model=pretrained", *overrides)
        return backbones.weights_file(config.model)

    assert file("model.backbone='~/x.keras'") == home / "x.keras"
    assert file("model.backbone=x.keras") == queued / "x.keras"
    weights = ["model.backbone=MobileNetV2", "model.weights"]
    assert file(weights[0], f"{weights[1]}=x.weights.h5") == queued / "x.weights.h5"
    with pytest.raises(InputError, match=rf"^model\.weights=y\.h5: no such file \({queued}/y\.h5"):
        file(weights[0], f"{weights[1]}=y.h5")


@pytest.mark.parametrize(
    ("path", "place"),
    [("pets", "project/pets"), ("../pets", "pets"), ("~/pets", "home/pets"), ("/no", "/no")],
)
def test_a_missing_folder_is_named_by_setting_value_and_place(queued: Path, path: str, place: str):
    place = str(queued.parent / place)
    with pytest.raises(InputError, match=rf"^dataset\.path={path}: no such folder \({place}\)\.$"):
        fetch(settings(path))
    with pytest.raises(InputError, match=rf"^dataset\.links_into={path}: .* \({place}\)\.$"):
        draw(Path("here"))
        fetch(settings("here", f"dataset.links_into='{path}'"))


def test_a_queued_experiment_prefers_its_own_version_but_not_of_what_is_outside(queued: Path):
    draw(queued / "pets")
    draw(queued.parent / "cats")
    fetch(settings("pets"))
    draw(Path("pets"), 3)
    draw(Path("../cats"), 3)
    fetch(settings("../cats"))
    assert len(list(paths.RAW.glob("cat/*"))) == 1
    fetch(settings("pets"))
    assert len(list(paths.RAW.glob("cat/*"))) == 3


def test_dvc_watches_what_its_copies_lack_in_the_projects_folder(home: Path):
    project = Path.cwd()

    def watched(path: str) -> str:
        return settings(path).dataset.depends_on

    for name in ("tracked", "by_dvc/inner", "ignored", "../outside"):
        draw(Path(name))
    assert watched("ignored") == "ignored"  # without git, no experiment runs in a copy
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path("by_dvc.dvc").touch()
    subprocess.run(["git", "add", "tracked", "by_dvc.dvc"], check=True)
    for path in ("tracked", "tracked/", "by_dvc", "by_dvc/inner", "missing", "/pets/"):
        assert watched(path) == path
    assert watched("ignored") == str(project / "ignored")
    assert watched("../outside") == str(project / "../outside")
    assert watched("~/missing") == str(home / "missing")


@pytest.mark.slow
def test_relative_paths_and_the_home_folder_work_in_queued_experiments(tmp_path: Path):
    folder = tmp_path / "project"
    project = new_project(folder)
    for place in (folder / "pets", folder / "south", tmp_path / "home/north"):
        draw(place)
    with (folder / ".gitignore").open("a") as file:
        file.write("/pets\n")
    project.commit()
    chosen = [
        "dataset=folder", "dataset.name=pets", "dataset.positive_class=cat", "dataset.path=pets",
        "+external.north.path='~/north'", "+external.south.path=south",
    ]  # fmt: skip
    words = [word for override in chosen for word in ("-S", override)]
    home = {"HOME": str(tmp_path / "home")}
    project.run("dvc", "exp", "run", "--queue", *words, "external", **home)
    (folder / "south/cat/0.png").unlink()  # git tracks it: the experiment has it still
    output = project.run("dvc", "exp", "run", "--run-all", **home)
    for line in ("2 images from pets", "north: 2 images from ~/north", "south: 2 images from"):
        assert line in output
    assert len(project.run("dvc", "exp", "list", "--name-only").split()) == 1


def test_dvc_replaces_the_home_folder(tmp_path: Path):
    project = new_project(tmp_path / "project")
    draw(tmp_path / "home/pets")
    words = ["dataset=folder", "dataset.name=pets", "dataset.positive_class=cat"]
    words = [word for text in (*words, "dataset.path='~/pets'") for word in ("-S", text)]
    project.run("dvc", "exp", "run", *words, "fetch", HOME=str(tmp_path / "home"))
    assert project.read("build/fetch.json")["source"] == "~/pets"
