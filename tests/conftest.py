"""One small project, run once: the real pipeline on the real configuration, shrunk."""

import atexit
import functools
import json
import os
import pwd
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

from image_classifier.config import compose
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow

if TYPE_CHECKING:
    import mlflow

    from image_classifier.classifier import Classifier

ROOT = Path(__file__).parents[1]
# the real configuration with small images, a small network and few epochs; the minimums let a weak
# model pass
SHRUNK = [
    "image.height=48",
    "image.width=48",
    "model.filters=[16,32]",
    "training.epochs=2",
    "promotion.minimum_accuracy=0",
    "promotion.minimum_sensitivity=0",
    "promotion.minimum_recall=0",
]


WARM = str(ROOT / "tests/bin/python")
OUTPUT = "runs/dvc_repro.txt"  # what the pipeline of `project` printed

# The files that take longest start first, so that both processes end at about the same time. The
# second one needs no `project`: it runs while the other process makes the project.
LONGEST = [
    "test_pipeline", "test_recipe", "test_sweep", "test_search", "test_promote", "test_train",
    "test_pretrained", "test_predict_output", "test_signals", "test_kill", "test_datasets",
    "test_dataset_command", "test_reproduce", "test_cross_validation", "test_dicom",
    "test_tracking_outage", "test_tracking", "test_dvc_yaml", "test_go_on", "test_model_files",
    "test_training", "test_serving", "test_serving_attacks", "test_concurrency", "test_external",
    "test_dvc_cache", "test_heat_maps", "test_secrets", "test_unequal", "test_full_disk",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def choices(group: str) -> list[str]:
    """Return the names of the files in a folder of conf/."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


# of the pretrained models one: `architecture` gives all of them the same backbone
NETWORKS = [name for name in choices("model") if not name.startswith("pretrained_")]


def architecture(name: str) -> list[str]:
    """Return the overrides for a model; without pretrained weights, which would be downloaded."""
    random = ["model.backbone=MobileNetV2", "model.weights=null"]
    return [f"model={name}", *(random if name.startswith("pretrained") else [])]


@functools.cache
def warm_python() -> str:
    """Start the process that forks the processes of commands; return the path of its socket."""
    path = str(Path(tempfile.mkdtemp(), "socket"))
    own = {"PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("warm_python.py"), str(listener.fileno())],
            env=os.environ | own, stdin=subprocess.PIPE, pass_fds=[listener.fileno()],
        )  # fmt: skip
    atexit.register(shutil.rmtree, Path(path).parent)
    atexit.register(process.communicate)  # it ends with its input
    return path


class Project:
    """A clone of this repository in a folder of its own, and commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # as on a fresh machine: no variable decides where runs are stored
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("DVC_", "MLFLOW_", "IMAGE_CLASSIFIER_"))
        } | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@example.com",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@example.com",
        }

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """Run a command here; return its output and errors; fail on another exit code.

        Python in DVC's stages and in MLproject starts warm: large imports take no time.
        """
        environment = self.environment | environment
        if command[0] in ("dvc", "mlflow", WARM):
            environment["WARM_PYTHON"] = warm_python()
            environment["PATH"] = f"{Path(WARM).parent}{os.pathsep}{environment['PATH']}"
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == code, (
            f"{command} ended with {result.returncode}:\n{result.stdout}"
        )
        return result.stdout

    def command(self, name: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command of the package here."""
        words = ["-m", "image_classifier", name, *arguments]
        return self.python(*words, code=code, **environment)

    def python(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run `python -m …` or `python -c …` as `run` does, but large imports take no time."""
        return self.run(WARM, *words, code=code, **environment)

    def write_params(self, *overrides: str) -> None:
        """Write params.yaml; without the former one, whose changes the command would print."""
        params = self.folder / "params.yaml"
        params.unlink(missing_ok=True)
        params.write_text(self.command("config", *overrides))

    def stages(self, *names: str) -> str:
        """Run stages here, all by default, in one process and without DVC; return the output."""
        code = f"""
import sys
from image_classifier.__main__ import STAGES, main
for stage in {names} or STAGES:
    if main(stage.split()):
        sys.exit(stage + " failed")
"""
        return self.python("-c", code)

    def read(self, path: str) -> dict:
        """Read a JSON file here."""
        return json.loads((self.folder / path).read_text())

    def commit(self) -> None:
        """Commit everything, as DVC's experiments expect."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", "test")

    @property
    def store(self) -> str:
        """The tracking URI of the project's own store."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"


def new_project(folder: Path, *overrides: str) -> Project:
    """Copy the working tree's files to a new repository, with settings in params.yaml."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    project = Project(folder)
    project.run("git", "init", "--quiet")
    project.write_params(*overrides)
    project.commit()
    return project


def copy_of(project: Project, folder: Path, *without: str) -> Project:
    """Copy a project that ran, without some names; its MLflow store names the copy's artifacts."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(*without))
    columns = {
        "experiments": "artifact_location", "runs": "artifact_uri",
        "model_versions": "storage_location", "logged_models": "artifact_location",
    }  # fmt: skip
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in columns.items():
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (str(project.folder), str(folder)),
            )
    return Project(folder)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The embedded dataset through the whole pipeline, once for all tests; they leave it alone."""
    mine = tmp_path_factory.mktemp("project") / "project"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return pipeline(mine)
    # the first of pytest's processes runs it, and every one has a copy
    shared = tmp_path_factory.getbasetemp().parent / "pipeline"
    with FileLock(f"{shared}.lock"):
        original = Project(shared) if (shared / OUTPUT).exists() else pipeline(shared)
    return copy_of(original, mine)


def pipeline(folder: Path) -> Project:
    """Run the whole pipeline in a new project."""
    project = new_project(folder, *SHRUNK)
    (folder / OUTPUT).write_text(project.run("dvc", "repro"))
    project.commit()
    return project


def parent_of(output: str) -> str:
    """Return the run of a sweep, from the output of its command."""
    return re.search(r"Sweep (\w+): ", output)[1]


def children(project: Project, parent: str) -> list["mlflow.entities.Run"]:
    """Return the runs of the jobs of a sweep."""
    import mlflow

    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    return mlflow.MlflowClient(project.store).search_runs(["1"], query)


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without images, for stages called in this process."""
    monkeypatch.chdir(tmp_path)
    Path("corrections.csv").write_text("path,label,reason\n")
    return tmp_path


def post(url: str, body: object) -> tuple[int, dict]:
    """Send JSON to a server; return the status and the answer."""
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Thirty small noise images of two classes."""
    file = tmp_path_factory.mktemp("prepared") / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 255, (30, 20, 24, 3), dtype=np.uint8))
    splits = ["train"] * 21 + ["validation"] * 5 + ["test"] * 4
    return PreparedDataset(
        rows=[
            ImageRow(
                f"{i}.png", "a", name, str(i), "0" * 144, "", "", -1, "PNG", "RGB", 24, 20, 1000
            )
            for i, name in enumerate(splits)
        ],
        images_file=file,
        labels=np.arange(30) % 2,
        classes=["a", "b"],
        digest="",
        source={},
    )


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured squares in class folders, without a split: 12 images each."""
    folder = tmp_path_factory.mktemp("shapes")
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("blue, dark", "green", "red")):
        for index in range(12):
            pixels = generator.integers(0, 80, (40, 50, 3), dtype=np.uint8)
            pixels[10:30, 10:40, channel] += 150
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def small_backbone(path: Path, height: int, width: int) -> None:
    """Write a backbone of three convolutions, with random weights and batch normalisation."""
    import keras  # imports TensorFlow
    from keras import layers

    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((height, width, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(x)
    for filters in (8, 16, 32):
        x = layers.BatchNormalization()(layers.Conv2D(filters, 3, 2, "same")(x))
        x = layers.ReLU()(x)
    keras.Model(inputs, x).save(path)


def taught(dataset: PreparedDataset) -> "Classifier":
    """Train the default model on the training images of a dataset of small grey images."""
    import keras  # imports TensorFlow

    from image_classifier.classifier import Classifier, Metadata
    from image_classifier.training import architectures, batches
    from image_classifier.training.compilation import compile_for_training

    keras.utils.set_random_seed(0)
    height, width = dataset.images.shape[1:3]
    settings = compose.config_of(
        f"image.height={height}", f"image.width={width}", "image.channels=1",
        "model.stem_stride=2", "training.batch_size=16",
    )  # fmt: skip
    model = architectures.build(settings.model, settings.image.shape, 2)
    epochs, steps = 12, batches.steps_per_epoch(len(dataset.indices("train")), 16)
    compile_for_training(model, settings.optimizer, settings.training, steps * epochs)
    data = batches.training_batches(dataset, settings, range(epochs))
    model.fit(data, steps_per_epoch=steps, epochs=epochs, verbose=0)
    return Classifier(model, Metadata(dataset.classes, 0.5, 1.0, height, width, 1, ""))


@contextmanager
def running_server(command: list[str], page: str, project: Project) -> Iterator[str]:
    """Run a server on a free port, added to the command, in a folder; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", project.folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=project.folder, stdout=file, stderr=file,
            env=project.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{address}/{page}").close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # MLflow's waits for connections that are left open
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server with a store of its own."""
    folder = tmp_path_factory.mktemp("server")
    command = ["mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with running_server(command, "health", Project(folder)) as address:
        yield address


@pytest.fixture
def world() -> Iterator[Path]:
    """A folder that every user may enter and write to; pytest's own are for its user only."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def run_stages(folder: Path, *stages: str, before: str = "") -> dict[str, str]:
    """Run stages in `folder`, in a process of its own, whatever becomes of the one before.

    Args:
        folder: The project's folder.
        stages: Names of stages.
        before: Python code that the process runs between its imports and the stages.

    Returns:
        What each stage ended with: its message, or nothing where it went through.
    """
    code = f"""
import contextlib, io, json, os, resource, sys
import PIL.Image
from image_classifier.__main__ import main
from image_classifier.stages import {", ".join(stages)}
PIL.Image.init()
{before}
ends = {{}}
for name in {stages!r}:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main([name])
    ends[name] = errors.getvalue().strip() if code else ""
print(json.dumps(ends))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr  # by a message, not by a traceback or a signal
    return json.loads(result.stdout.splitlines()[-1])


def as_nobody() -> str:
    """Return code for `run_stages` that gives up every right but everyone's."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = pwd.getpwnam("nobody")
    return f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
