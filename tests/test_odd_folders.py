"""The project in folders whose names have special characters of addresses and overrides."""

import shlex
import shutil
import sqlite3
import urllib.request
from pathlib import Path

import pytest
from sqlalchemy import make_url

from conftest import SHRUNK, Project, post, running_server
from image_classifier.project import paths
from image_classifier.tracking import connection

NAMES = [
    "my project", "o'brien", 'a "quoted" one', "what?", "%41", "50%25 off", "a#b", "a&b", "a;b",
    "a=b,c", "Größe",
]  # fmt: skip
ALL = "it's 50%25 of what? #1 & a;b=c,d %41 Größe"


@pytest.mark.parametrize("name", [*NAMES, ALL])
def test_the_address_of_a_database_leads_to_its_file(name: str, tmp_path: Path):
    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    address = paths.sqlite_address(file)
    assert make_url(address).database == str(file)
    assert make_url(address).get_backend_name() == "sqlite"


@pytest.mark.parametrize("name", [ALL, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES)])
def test_the_store_is_in_the_projects_folder_and_nothing_is_beside_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    connection.experiment_id("first")
    with sqlite3.connect("mlflow.db") as database:
        query = "SELECT artifact_location FROM experiments WHERE name = 'first'"
        assert database.execute(query).fetchone() == ((Path.cwd() / "mlartifacts").as_uri(),)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture(scope="module")
def odd(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A prepared project in a folder with all of them."""
    folder = tmp_path_factory.mktemp("odd") / ALL
    ignored = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "runs", "cache")
    shutil.copytree(project.folder, folder, ignore=ignored)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/.installed").touch()
    return Project(folder)


@pytest.mark.slow
def test_a_sweep_its_models_and_the_ui_work(odd: Project):
    output = odd.command("train", "--multirun", *SHRUNK, "training.epochs=1", "training.seed=1,2")
    assert "2 jobs finished, 0 failed." in output
    image = "data/test/COVID19/phantom-001.jpg"
    model = ["--model", "models:/synthetic-xray-classifier/1"]
    assert image in odd.command("predict", image, *model)
    ui = shlex.split(odd.run("make", "--silent", "--dry-run", "ui").splitlines()[-1])
    with running_server(ui, "health", odd) as address:
        found = (
            f"{address}/ajax-api/2.0/mlflow/registered-models/get?name=synthetic-xray-classifier"
        )
        assert b'"version"' in urllib.request.urlopen(found).read()
    assert [path.name for path in odd.folder.parent.iterdir()] == [ALL]


@pytest.mark.slow
def test_the_pipeline_the_launcher_of_processes_and_the_server_work(odd: Project):
    odd.run("dvc", "repro")
    words = ["launch=processes", *SHRUNK, "training.epochs=1", "training.seed=3,4"]
    assert "2 jobs finished, 0 failed." in odd.command("train", "--multirun", *words)
    odd.command("train", *SHRUNK, "training.epochs=1", "training.seed=5")
    odd.command("summary")
    with running_server(["image-classifier", "serve"], "health", odd) as address:
        assert post(address, {"inputs": []})[0] in (200, 400)
    assert [path.name for path in odd.folder.parent.iterdir()] == [ALL]


def test_a_folder_that_mlflow_refuses_is_reported_before_any_work(tmp_path: Path):
    folder = tmp_path / 'it\'s "odd"'
    folder.mkdir()
    for command in ("fetch", "train", "predict"):
        line = Project(folder).python("-m", "image_classifier", command, code=1).strip()
        assert line.startswith(f"{command}: MLflow refuses a folder with both ' and \" in its path")
        assert "\n" not in line


def test_a_queued_experiment_that_dvc_would_lose_is_refused(tmp_path: Path):
    for name in ("50%25 off", "Größe"):
        copy = tmp_path / name / ".dvc/tmp/exps/copy"
        copy.mkdir(parents=True)
        root = {"DVC_ROOT": str(tmp_path / name)}
        line = Project(copy).python("-m", "image_classifier", "fetch", code=1, **root)
        assert "DVC loses experiments of --queue and --temp" in line
    line = Project(copy).python("-m", "image_classifier", "fetch", code=1, DVC_ROOT=str(copy))
    assert "params.yaml not found" in line
