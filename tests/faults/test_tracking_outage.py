"""An MLflow server that is down, slow or broken: the training ends, and is uploaded later."""

import http.server
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest

from conftest import SHRUNK, Project, running_server

TRAIN = [*SHRUNK, "training.epochs=4"]
OUTCOMES = ("evaluate/evaluated.json", "promote/decision.json")
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # do not wait for retries


class Gate:
    """A TCP proxy of a server: it forwards everything after a delay, or refuses connections."""

    def __init__(self, server: str) -> None:
        self.server = int(server.rsplit(":", 1)[1])
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.delay, self.connections = 0.0, []
        self.listener: socket.socket | None = None
        self.url = f"http://127.0.0.1:{self.port}"

    def open(self, delay: float = 0) -> None:
        self.delay = delay
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def close(self) -> None:
        """Refuse new connections, and close the open ones."""
        if self.listener:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        for connection in self.connections:
            with suppress(OSError):  # one end has closed it
                connection.shutdown(socket.SHUT_RDWR)  # wakes the threads that read from it
            connection.close()
        self.connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.server))
            self.connections += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if source.getpeername()[1] == self.server:
                    time.sleep(self.delay)
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()


@pytest.fixture
def gate(tracking_server: str) -> Iterator[Gate]:
    gate = Gate(tracking_server)
    yield gate
    gate.close()


def files_of_epochs(project: Project) -> set[Path]:
    """Return the files that unfinished trainings wrote after their epochs."""
    return set(project.folder.glob("runs/unfinished/*/epoch-*.npz"))


def runs_of(server: str, seed: int) -> list:
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("image-classifier")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if run.data.params.get("training.seed") == str(seed)]


def assert_uploaded_once(server: str, seed: int) -> None:
    client = mlflow.MlflowClient(server)
    (run,) = runs_of(server, seed)
    run_id = run.info.run_id
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "val/accuracy"):
        steps = [metric.step for metric in client.get_metric_history(run_id, name)]
        assert sorted(steps) == [1, 2, 3, 4], name
    for name in ("train_seconds", "parameters"):
        assert len(client.get_metric_history(run_id, name)) == 1, name
    assert len(client.search_model_versions(f"run_id = '{run_id}'")) == 1
    files = {file.path for file in client.list_artifacts(run_id, "training")}
    assert "training/learning_curves.png" in files
    assert client.list_artifacts(run_id, "data")


def assert_kept_then_uploaded(
    project: Project, kept: str, server: str, seed: int, url: str
) -> None:
    """Check the output of a training without a server, then the same command with the server."""
    assert "Nothing is lost: run the same command again" in kept
    assert "Traceback" not in kept
    command = ["train", *TRAIN, f"training.seed={seed}"]
    output = project.command(*command, MLFLOW_TRACKING_URI=url)
    assert "This training is finished already, at epoch 4: nothing to train." in output
    assert "Epoch 1/4" not in output
    assert_uploaded_once(server, seed)


def test_the_rest_is_uploaded_once_after_a_server_failed_during_a_training(
    project: Project, tracking_server: str, gate: Gate
):
    gate.open()
    environment = {"MLFLOW_TRACKING_URI": gate.url, **IMPATIENT}
    before = files_of_epochs(project)
    with ThreadPoolExecutor(1) as pool:
        command = ["train", *TRAIN, "training.seed=101"]
        training = pool.submit(project.command, *command, code=1, **environment)
        while not files_of_epochs(project) - before and not training.done():
            time.sleep(0.01)
        gate.close()  # in the second epoch
        output = training.result()
    assert "does not answer" in output
    assert "Epoch 4/4" in output
    gate.open()
    assert_kept_then_uploaded(project, output, tracking_server, 101, gate.url)


@pytest.mark.slow
def test_everything_is_uploaded_later_if_the_server_was_down_from_the_start(
    project: Project, tracking_server: str, gate: Gate
):
    command = ["train", *TRAIN, "training.seed=102"]
    output = project.command(*command, code=1, MLFLOW_TRACKING_URI=gate.url)
    assert "Continuing without it" in output
    gate.open()
    assert_kept_then_uploaded(project, output, tracking_server, 102, gate.url)


@pytest.mark.slow
def test_everything_is_uploaded_later_if_the_server_answered_500(
    project: Project, tracking_server: str
):
    class Broken(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(500)

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{broken.server_port}"
        command = ["train", *TRAIN, "training.seed=103"]
        output = project.command(*command, code=1, MLFLOW_TRACKING_URI=url)
        broken.shutdown()
    assert "500" in output
    assert_kept_then_uploaded(project, output, tracking_server, 103, tracking_server)


@pytest.mark.slow
def test_everything_is_uploaded_to_a_slow_server(
    project: Project, tracking_server: str, gate: Gate
):
    gate.open(delay=0.5)
    project.command("train", *TRAIN, "training.seed=104", MLFLOW_TRACKING_URI=gate.url)
    assert_uploaded_once(tracking_server, 104)


@pytest.mark.slow
def test_everything_is_uploaded_after_a_restart_of_a_real_server(project: Project, tmp_path: Path):
    command = ["mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    train = ["train", *TRAIN, "training.seed=105"]
    with running_server(command, "health", Project(tmp_path)) as first:
        experiment = mlflow.MlflowClient(first).create_experiment("other")
        assert experiment
    output = project.command(*train, code=1, MLFLOW_TRACKING_URI=first)
    with running_server(command, "health", Project(tmp_path)) as second:
        assert_kept_then_uploaded(project, output, second, 105, second)


def test_a_deleted_experiment_is_reported_before_any_training(project: Project):
    client = mlflow.MlflowClient(project.store)
    client.delete_experiment(client.create_experiment("deleted"))
    output = project.command(
        "train", *TRAIN, "tracking.experiment=deleted", "training.seed=106", code=1
    )
    assert "The MLflow experiment deleted was deleted: `mlflow experiments restore" in output
    assert "Epoch 1" not in output
    assert "Traceback" not in output


def test_evaluate_and_promote_name_a_server_that_is_down_and_change_nothing(
    project: Project, gate: Gate
):
    before = [(project.folder / "build" / name).read_bytes() for name in OUTCOMES]
    for stage in ("evaluate", "promote"):
        output = project.command(stage, code=1, MLFLOW_TRACKING_URI=gate.url, **IMPATIENT)
        assert f"{stage}: MLflow at {gate.url} failed or does not answer" in output
        assert "Traceback" not in output
    assert [(project.folder / "build" / name).read_bytes() for name in OUTCOMES] == before


def test_a_sweep_reports_at_once_that_the_server_is_down(project: Project, gate: Gate):
    output = project.command(
        "train", "--multirun", *TRAIN, "training.seed=107,108", code=1,
        MLFLOW_TRACKING_URI=gate.url, **IMPATIENT
    )  # fmt: skip
    assert "the run of the sweep cannot be opened in MLflow" in output
    assert "Epoch 1" not in output
    assert not re.search("Traceback", output)


@pytest.mark.slow
def test_the_same_command_finishes_a_sweep_whose_server_failed(
    project: Project, tracking_server: str, gate: Gate
):
    sweep = [sys.executable, "-m", "image_classifier", "train", "--multirun", *TRAIN]
    sweep += ["training.seed=111,112,113"]
    environment = {"MLFLOW_TRACKING_URI": gate.url, **IMPATIENT}
    gate.open()
    process = subprocess.Popen(
        sweep, cwd=project.folder, env=project.environment | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    seen, output = 0, ""
    for line in process.stdout:
        output += line
        seen += "Epoch 2/4" in line
        if seen == 2:  # in the middle of the second job
            gate.close()
    assert process.wait() != 0
    assert output.count("Epoch 4/4") == 3  # all of them trained to the end
    gate.open()
    output = project.run(*sweep, MLFLOW_TRACKING_URI=gate.url)
    assert "3 jobs finished, 0 failed" in output
    assert "Epoch 1/4" not in output
    for seed in (111, 112, 113):
        assert_uploaded_once(tracking_server, seed)
