"""A disk that fills up during a training: one message, and no finished epoch is lost."""

import re
import subprocess
from pathlib import Path

import mlflow
import pytest

from conftest import SHRUNK, Project, copy_of

# the whole network, whose epochs are large files
WORDS = [word for word in SHRUNK if not word.startswith("model.")]
TRAIN = ["-m", "image_classifier", "train", *WORDS]


def run_of(output: str) -> str:
    return re.search(r"MLflow run (\w{32}), registered", output)[1]


def weights_of(project: Project, run_id: str) -> str:
    return mlflow.MlflowClient(project.store).get_run(run_id).data.tags["weights_sha256"]


@pytest.mark.slow
def test_a_training_continues_after_space_is_freed_on_a_full_disk(project: Project, tmp_path: Path):
    undisturbed = copy_of(project, tmp_path / "undisturbed")
    expected = weights_of(undisturbed, run_of(undisturbed.python(*TRAIN)))
    copy = copy_of(project, tmp_path / "project")
    runs = copy.folder / "runs"
    runs.mkdir(exist_ok=True)
    # enough for the files of one epoch, not for those of two
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(runs)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a file system")
    try:
        output = copy.python(*TRAIN, code=1)
        assert re.search(r"train: \S+/runs/unfinished/\S+: No space left on device", output)
        assert "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,size=64m", str(runs)], check=True)
        output = copy.python(*TRAIN)
        assert "Continuing an earlier attempt after epoch 1." in output
    finally:
        subprocess.run(["umount", str(runs)], check=True)
    run_id = run_of(output)
    assert "error" not in mlflow.MlflowClient(copy.store).get_run(run_id).data.tags
    assert weights_of(copy, run_id) == expected
