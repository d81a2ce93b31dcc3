"""Long, empty and odd values: no training fails because MLflow does not take them as they are."""

import csv

import mlflow
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from conftest import Project, new_project
from image_classifier.config import compose
from image_classifier.errors import InputError
from image_classifier.stages.evaluate import metric_names

CLASSES = ["a/b?", "a#b", "a%b", "..", "😀", "x" * 260, f"{'x' * 260}y", "| `*_"]
MODEL = "o'brien\"s 50% Größe"
LABELS = [f"{number} {'x' * 600}" for number in range(len(CLASSES))]
NOTE = "# Not a heading\n| a | b |\n|---|---|\n\n**😀** `code` <b>" + "long " * 1500
EXCLUDE = [f"nothing/{number:04}/*.png" for number in range(300)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose settings and classes are odd, after all stages."""
    folder = tmp_path_factory.mktemp("odd")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    with (folder / "images" / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for number in range(len(CLASSES)):
            for index in range(8):
                pixels = generator.integers(0, 80, (40, 48, 3), dtype=np.uint8)
                pixels[:, number * 6 : number * 6 + 6] += 150
                Image.fromarray(pixels).save(folder / "images" / f"{number}_{index}.png")
                writer.writerow([f"{number}_{index}.png", LABELS[number]])
    project = new_project(
        folder / "project", f"dataset.path={folder / 'images'}", "dataset.table=labels.csv",
        "dataset.positive_class=null",
        "image.height=32", "image.width=32", "training.epochs=1", "training.batch_size=8",
    )  # fmt: skip
    params = project.folder / "params.yaml"
    settings = OmegaConf.load(params)
    settings.tracking = {**settings.tracking, "registered_model": MODEL, "experiment": "a/b: #?"}
    settings.dataset.note = NOTE
    settings.dataset.exclude = EXCLUDE
    settings.dataset.classes = dict(zip(LABELS, CLASSES, strict=True))
    OmegaConf.save(settings, params)
    project.stages()
    return project


def test_the_run_has_all_of_it_and_says_what_is_cut(odd: Project):
    client = mlflow.MlflowClient(odd.store)
    run_id = odd.read("build/train/run.json")["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in ("dataset.exclude", "dataset.classes", "dataset.note"):
        assert run.data.params[name].endswith("characters, all in config/params.yaml)"), name
    file = mlflow.artifacts.download_artifacts(
        f"runs:/{run_id}/config/params.yaml", tracking_uri=odd.store
    )
    stored = OmegaConf.load(file)
    assert stored.dataset.note == NOTE
    assert list(stored.dataset.exclude) == EXCLUDE
    recalls = [name for name in run.data.metrics if name.startswith("test_recall_of_")]
    assert len(recalls) == len(CLASSES)


def test_the_version_is_found_and_predicts(odd: Project):
    picture = next((odd.folder / "build" / "raw").rglob("*.png"))
    output = odd.command("predict", str(picture), "--model", f"models:/{MODEL}/1")
    assert picture.name in output
    odd.command("summary")


def test_two_classes_never_share_a_metric():
    assert metric_names(["cat", "dog food"]) == {"cat": "cat", "dog food": "dog_food"}
    for classes in (["a#", "a%"], ["a", "A"], [".", "a"], ["..", ".a"], ["x" * 200, "x" * 201]):
        names = list(metric_names(classes).values())
        assert names == [f"{number}_{name[2:]}" for number, name in enumerate(names)]
        assert len({name.casefold() for name in names}) == 2


@pytest.mark.parametrize(
    "override",
    [
        *(
            f"tracking.registered_model='{name}'"
            for name in ("a/b", "a:b", "a@b", "a#b", " ", "..")
        ),
        f"tracking.registered_model={'x' * 201}",
        "tracking.experiment=' '",
        f"tracking.experiment={'x' * 501}",
        f"dataset.name={'x' * 101}",
    ],
)
def test_what_mlflow_cannot_take_is_refused_before_the_training(override: str):
    with pytest.raises(InputError, match=override.partition("=")[0]):
        compose.config_of(override)
