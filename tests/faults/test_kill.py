"""`kill -9` during a training, and the same command again."""

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable

import mlflow
import psutil
import pytest

from conftest import SHRUNK, Project, copy_of, new_project, small_backbone

LONGER = [*SHRUNK, "training.epochs=8", "training.batch_size=4"]
TRAIN = [sys.executable, "-m", "image_classifier", "train", *LONGER]


@pytest.fixture(scope="module")
def killed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project; `weights` is the digest of a training that was not killed."""
    killed = copy_of(project, tmp_path_factory.mktemp("killed") / "project")
    killed.weights = weights_of(killed, killed.python(*TRAIN[1:]))
    return killed


def run_of(output: str) -> str:
    return re.search(r"MLflow run (\w{32}), registered", output)[1]


def weights_of(project: Project, output: str) -> str:
    run = mlflow.MlflowClient(project.store).get_run(run_of(output))
    return run.data.tags["weights_sha256"]


def kill(project: Project, command: list[str], moment: Callable[[], bool]) -> None:
    """Start a command and kill it when `moment` returns True; of DVC, kill only the children."""
    log = project.folder / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=project.folder, env=project.environment, stdout=file, stderr=file
        )
    while not moment():
        if process.poll() is not None:
            assert process.returncode == 0, log.read_text()
            return  # it finished before the moment
        time.sleep(0.01)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    if command[0] != "dvc":
        process.kill()
    process.wait()


def epochs_of(project: Project) -> int:
    """Return how many epochs the killed training finished: its log has one line for each."""
    return len(re.findall(r"val_loss: ", (project.folder / "killed.log").read_text()))


def assert_complete(project: Project, run_id: str) -> None:
    client = mlflow.MlflowClient(project.store)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "val/loss", "val/accuracy"):
        steps = [metric.step for metric in client.get_metric_history(run_id, name)]
        assert sorted(steps) == [1, 2, 3, 4, 5, 6, 7, 8], name
    assert len(client.search_model_versions(f"run_id = '{run_id}'")) == 1


@pytest.mark.slow
def test_dvc_repro_continues_a_killed_training_in_the_same_run_to_the_same_weights(killed: Project):
    client = mlflow.MlflowClient(killed.store)
    params = (killed.folder / "params.yaml").read_text()
    (killed.folder / "params.yaml").write_text(
        params.replace("epochs: 2", "epochs: 8").replace("batch_size: 16", "batch_size: 4")
    )
    before = {run.info.run_id for run in client.search_runs(["1"])}
    kill(killed, ["dvc", "repro", "train"], lambda: epochs_of(killed) >= 3)
    output = killed.run("dvc", "repro", "train")
    assert re.search(r"Continuing an earlier attempt after epoch [2-7]\.", output)
    (run_id,) = {run.info.run_id for run in client.search_runs(["1"])} - before
    assert run_id == killed.read("build/train/run.json")["run_id"]
    assert not client.search_model_versions(f"run_id = '{run_id}'")
    killed.command("evaluate")  # registers the model
    assert_complete(killed, run_id)
    assert client.get_run(run_id).data.tags["weights_sha256"] == killed.weights
    history = (killed.folder / "build/train/history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", *"12345678"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_kill_at_a_random_moment_loses_nothing(killed: Project, number: int):
    client = mlflow.MlflowClient(killed.store)
    moments = random.Random(number)
    before = {run.info.run_id for run in client.search_runs(["1"])}
    # a start takes longer than an epoch: the moments are counted from the first epoch on
    delay, started = moments.uniform(0, 8), []

    def moment() -> bool:
        if not started and "Epoch 1/8" in (killed.folder / "killed.log").read_text():
            started.append(time.monotonic())
        return bool(started) and time.monotonic() > started[0] + delay

    kill(killed, TRAIN, moment)
    output = killed.python(*TRAIN[1:])
    new = {run.info.run_id for run in client.search_runs(["1"])} - before
    print(
        f"killed {delay:.1f} s after the start of the first epoch, in epoch {epochs_of(killed) + 1}"
    )
    assert run_of(output) in new
    assert_complete(killed, run_of(output))
    assert weights_of(killed, output) == killed.weights
    # a training that was through before the kill has its own run
    assert all(client.get_run(run_id).info.status == "FINISHED" for run_id in new)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """A project with prepared images, and the command that trains a pretrained model on them."""
    folder = tmp_path_factory.mktemp("pretrained")
    small_backbone(folder / "backbone.keras", 48, 48)
    words = [
        "model=pretrained", f"model.backbone={folder / 'backbone.keras'}",
        *(word for word in SHRUNK if not word.startswith(("model.", "training."))),
        "image.fit=squash",
        "training.epochs=6", "training.fine_tune_epochs=6", "training.batch_size=2",
    ]  # fmt: skip
    project = new_project(folder / "project", *words)
    project.run("dvc", "repro", "prepare")
    command = [sys.executable, "-m", "image_classifier", "train", *words]
    project.weights = weights_of(project, project.python(*command[1:]))
    return project, command


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_kill_at_a_random_moment_of_either_phase_loses_nothing(
    pretrained: tuple[Project, list[str]], number: int
):
    project, command = pretrained
    after = random.Random(number).uniform(0, 12)  # epochs
    moment = random.Random(number + 100).uniform(0, 0.3)  # seconds

    def reached() -> bool:
        if epochs_of(project) < int(after):
            return False
        time.sleep(moment)
        return True

    kill(project, command, reached)
    log = (project.folder / "killed.log").read_text()
    print(f"killed in epoch {epochs_of(project) + 1}, fine-tuning: {'fine-tuning:' in log}")
    output = project.python(*command[1:])
    assert weights_of(project, output) == project.weights
    run = mlflow.MlflowClient(project.store).get_run(run_of(output))
    assert run.info.status == "FINISHED"
