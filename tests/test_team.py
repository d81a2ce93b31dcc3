"""A team's servers for real: PostgreSQL, S3, MLflow with log-in; two clones that share them."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, SHRUNK, Project, new_project

NAME = "pictures-classifier"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))),
        reason="PostgreSQL is not installed; it is no Python package: apt-get install postgresql",
    ),
]


@pytest.fixture(scope="module")
def team() -> Iterator[dict[str, str]]:
    """The environment of a member of the team."""
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to the database's user
    folder.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, ROOT / "team/start.py", folder / "servers"],
        env=Project(folder).environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    environment = {}
    for line in process.stdout:
        if line.startswith("#"):
            break
        name, value = line.removeprefix("export ").strip().split("=", 1)
        environment[name] = value.strip("'")
    assert environment, "team/start.py did not start"
    yield environment
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def first(team: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone that trained on a dataset repository, and pushed; the repository is gone since."""
    folder = tmp_path_factory.mktemp("first")
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "repository" / label).mkdir(parents=True)
        for index in range(30):
            pixels = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            pixels[10:30, 10:30, 0 if label == "cat" else 2] += 130
            Image.fromarray(pixels).save(folder / "repository" / label / f"{index}.png")
    repository = Project(folder / "repository")
    repository.run("git", "init", "--quiet")
    repository.commit()
    overrides = [
        *SHRUNK, "dataset=git", "dataset.name=pictures", "dataset.positive_class=cat",
        f"dataset.url={repository.folder}", "promotion.accept_shortcuts=[metadata,border]",
    ]  # fmt: skip
    project = new_project(folder / "project", *overrides)
    project.overrides = overrides
    project.environment |= team
    project.run("dvc", "repro")
    project.run("dvc", "remote", "add", "--local", "--default", "team", "s3://dvc")
    project.run("dvc", "push")
    project.commit()
    shutil.rmtree(repository.folder)
    return project


def client(team: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    for name, value in team.items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(team["MLFLOW_TRACKING_URI"])


def test_without_the_password_nobody_gets_in(team: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for password in ("wrong", ""):
        wrong = team | {"MLFLOW_TRACKING_PASSWORD": password}
        with pytest.raises(mlflow.MlflowException, match=r"401|not authenticated|authenticat"):
            client(wrong, monkeypatch).search_experiments()
    assert client(team, monkeypatch).search_experiments()


def test_another_clone_sees_run_model_and_data_without_the_dataset_repository(
    first: Project, team: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_id = first.read("build/train/run.json")["run_id"]
    second = Project(tmp_path / "second")
    subprocess.run(["git", "clone", "--quiet", first.folder, second.folder], check=True)
    second.environment |= team
    second.run("dvc", "remote", "add", "--local", "--default", "team", "s3://dvc")
    second.run("dvc", "pull")
    assert len(list((second.folder / "build/raw").rglob("*.png"))) == 60
    assert second.read("build/train/run.json")["run_id"] == run_id
    assert "Running stage" not in second.run("dvc", "repro")

    store = client(team, monkeypatch)
    assert store.get_run(run_id).data.metrics["test_accuracy"] >= 0
    assert store.get_model_version_by_alias(NAME, "champion").run_id == run_id
    picture = next((second.folder / "build/raw/cat").glob("*.png"))
    assert picture.name in second.command("predict", str(picture))

    # what the second clone adds, the first one sees
    second.command("train", "--config-path", str(second.folder), "--config-name", "params",
                  "training.epochs=1", "training.seed=9")  # fmt: skip
    seeds = {run.data.params.get("training.seed") for run in store.search_runs(["1"])}
    assert seeds == {"0", "9"}


@pytest.mark.slow
def test_parallel_jobs_on_postgresql_lose_nothing(
    first: Project, team: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    output = first.command(
        "train", "--multirun", *first.overrides, "launch=cores", "hydra.launcher.n_jobs=4",
        "training.epochs=1", "training.seed=0,1,2,3,4,5,6,7",
    )  # fmt: skip
    assert "8 jobs finished, 0 failed" in output
    store = client(team, monkeypatch)
    runs = store.search_runs(["1"], "attributes.run_name LIKE '%threads=1%'")
    assert len({run.data.params["training.seed"] for run in runs}) == 8
    for run in runs:
        assert {"val/loss", "best_val_loss", "fit_seconds"} <= set(run.data.metrics)
        assert store.list_artifacts(run.info.run_id, "training")
    assert len({run.data.tags["registered_version"] for run in runs}) == 8


def test_no_password_is_stored_anywhere(first: Project, team: dict[str, str]):
    secret = team["MLFLOW_TRACKING_PASSWORD"].encode()
    files = [
        path for path in first.folder.rglob("*") if path.is_file() and ".git/" not in str(path)
    ]
    assert not [path for path in files if secret in path.read_bytes()]
