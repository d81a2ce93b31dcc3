"""Where runs are stored: another server, `mlflow run`, and processes that start together."""

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from conftest import SHRUNK, Project
from image_classifier.config import compose
from image_classifier.tracking import connection, runs
from image_classifier.tracking.epoch_logger import EpochLogger
from image_classifier.training.progress import Progress


def test_a_tracking_server_stores_run_model_and_evaluation(project: Project, tracking_server: str):
    uri = tracking_server
    output = project.command("train", *SHRUNK, "training.epochs=1", MLFLOW_TRACKING_URI=uri)
    run_id, model = re.search(r"MLflow run (\w+), registered as (models:/\S+)\.", output).groups()
    client = mlflow.MlflowClient(uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    artifacts = client.list_artifacts(run_id, "training")
    assert "training/learning_curves.png" in [file.path for file in artifacts]
    picture = next((project.folder / "data").rglob("*.jpg"))
    output = project.command("predict", str(picture), "--model", model, MLFLOW_TRACKING_URI=uri)
    assert picture.name in output

    # a model that DVC restored, and a store that lacks its run
    output = project.command("evaluate", code=1, MLFLOW_TRACKING_URI=uri)
    assert "dvc repro -f -s train" in output
    assert "Traceback" not in output


def test_mlflow_run_trains_in_the_run_it_made(project: Project):
    # `mlflow run` takes one setting; these make the images smaller
    conf = project.folder / "conf" / "config.yaml"
    before = conf.read_text()
    conf.write_text(before.replace("height: 200", "height: 48").replace("width: 200", "width: 48"))
    try:
        output = project.run("mlflow", "run", ".", "--env-manager", "local", "-e", "train",
                             "-P", "setting=training.epochs=1", "-P", "seed=7")  # fmt: skip
    finally:
        conf.write_text(before)
    run_id = re.search(r"MLflow run (\w+), registered", output)[1]
    run = mlflow.MlflowClient(project.store).get_run(run_id)
    assert run.data.params["training.seed"] == "7"
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.project.entryPoint"] == "train"


@pytest.mark.slow
def test_processes_that_start_together_on_a_fresh_store_all_succeed(
    project: Project, tmp_path: Path
):
    code = "from image_classifier.tracking import connection; print(connection.experiment_id('x'))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=project.environment,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    assert [process.communicate()[0].strip() for process in processes] == ["1"] * 4


@pytest.mark.slow
def test_machines_that_start_together_on_a_fresh_server_all_succeed(
    project: Project, tmp_path: Path, tracking_server: str
):
    code = """
import time
from image_classifier.tracking import connection
connection.connect()
while time.time() % 20 > 0.5:
    time.sleep(0.001)
print([connection.experiment_id(f"new {number}") for number in range(40)])
"""
    processes = []
    for number in range(4):  # each has a lock of its own, as on machines of their own
        (tmp_path / str(number)).mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code], cwd=tmp_path / str(number),
                env=project.environment | {"MLFLOW_TRACKING_URI": tracking_server},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    ends = [process.communicate() for process in processes]
    assert len({printed for printed, _ in ends}) == 1, ends
    assert len(set(ends[0][0].split(","))) == 40


def test_runs_that_are_the_first_ones_on_a_dataset_all_log_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    experiment = connection.experiment_id("new")
    client = mlflow.MlflowClient()
    made = [client.create_run(experiment).info.run_id for _ in range(4)]
    digests = [f"digest {number}" for number in range(20)]
    together = threading.Barrier(len(made))

    def log(run_id: str) -> None:
        for digest in digests:
            together.wait(60)
            runs.log_dataset(run_id, "pictures", digest, {})

    with ThreadPoolExecutor(len(made)) as pool:
        list(pool.map(log, made))
    for run_id in made:
        logged = client.get_run(run_id).inputs.dataset_inputs
        assert sorted(each.dataset.digest for each in logged) == sorted(digests)


def test_an_epoch_that_a_killed_attempt_logged_is_not_logged_again(tmp_path: Path):
    """The attempt was killed after it logged the epoch, and before it wrote the epoch's file."""
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(client.tracking_uri)
    run_id = client.create_run(client.create_experiment("x")).info.run_id
    values = {"loss": [2.0, 1.0], "accuracy": [0.5, 0.5], "balanced_accuracy": [0.5, 0.5]}
    history = values | {f"val_{name}": value for name, value in values.items()}
    training = compose.config_of().training
    for _ in range(2):
        logger = EpochLogger(run_id, Progress(history), training)
        for epoch in range(2):
            logger.on_epoch_end(epoch, {})
        logger.pool.shutdown()
    steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
    assert steps == [1, 2]
