"""Two commands at once: one waits for the other, or is refused; their results never mix."""

import re
import subprocess
import sys
import time

import mlflow
import pytest

from conftest import SHRUNK, Project, copy_of


@pytest.fixture(scope="module")
def shared(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project after `dvc repro`."""
    return copy_of(project, tmp_path_factory.mktemp("shared") / "project")


def start(project: Project, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=project.folder, env=project.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_second_dvc_repro_is_refused_or_has_nothing_to_do(shared: Project):
    params = (shared.folder / "params.yaml").read_text()
    (shared.folder / "params.yaml").write_text(params.replace("seed: 0", "seed: 1"))
    processes = [start(shared, "dvc", "repro", "train") for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert 0 in codes
    for code, output in zip(codes, outputs, strict=True):
        assert "Traceback" not in output
        assert code == 0 or re.search(r"[Uu]nable to acquire lock|is busy", output), output
    shared.run("dvc", "repro", "train")
    assert "up to date" in shared.run("dvc", "status", "train")
    # a finished training is not continued: with --force it starts from the first epoch
    assert "Epoch 1/2" in shared.run("dvc", "repro", "--force", "--single-item", "train")


@pytest.mark.slow
def test_a_training_waits_for_the_same_training_in_another_process(shared: Project):
    command = ["-m", "image_classifier", "train", *SHRUNK, "training.seed=40"]
    command += ["--config-path", str(shared.folder), "--config-name", "params"]
    before = set(shared.folder.glob("runs/unfinished/*"))
    first = start(shared, sys.executable, *command)
    while not set(shared.folder.glob("runs/unfinished/*")) - before:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    second = shared.python(*command)
    outputs = [first.communicate()[0], second]
    assert first.returncode == 0, outputs
    waited = ["Another process runs the same training: waiting" in output for output in outputs]
    assert waited == [False, True]
    runs = {re.search(r"MLflow run (\w{32}), registered", output)[1] for output in outputs}
    client = mlflow.MlflowClient(shared.store)
    for run_id in runs:
        steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
        assert sorted(steps) == [1, 2]
    assert len(runs) == 2


def test_prepare_does_not_change_the_images_of_a_running_training(shared: Project):
    """The training keeps the file open that it started with."""
    code = """
import sys
from image_classifier.config import compose
from image_classifier.stages import prepare
from image_classifier.data import dataset
settings = compose.load()
opened = dataset.load_prepared(settings)
before = opened.images[:].copy()
other = settings.model_copy(update={"image": settings.image.model_copy(update={"height": 40})})
prepare.prepare(other)
assert (opened.images[:] == before).all()
try:
    dataset.load_prepared(settings)
except dataset.InputError as error:
    print(error)
prepare.prepare(settings)
"""
    assert "image.height is 48, prepared with 40" in shared.run(sys.executable, "-c", code)
