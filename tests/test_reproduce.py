"""A run repeated from what MLflow recorded, and the same weights whichever way it was started."""

import re
from pathlib import Path

import mlflow

from conftest import SHRUNK, Project


def test_a_run_is_repeated_to_the_last_bit(project: Project):
    run_id = project.read("build/train/run.json")["run_id"]
    output = project.module("reproduce", run_id)
    assert "weights  equal" in output
    assert re.search(r"metrics  (\d+) of \1 equal to the last bit", output)
    assert "DIFFERENT" not in output


def test_a_difference_is_told_and_ends_with_1(project: Project):
    run_id = project.read("build/train/run.json")["run_id"]
    client = mlflow.MlflowClient(project.store)
    digest = client.get_run(run_id).data.tags["weights_sha256"]
    client.set_tag(run_id, "weights_sha256", "0" * 64)
    try:
        output = project.module("reproduce", run_id, code=1)
    finally:
        client.set_tag(run_id, "weights_sha256", digest)
    assert "weights  DIFFERENT" in output


def test_an_unknown_run_is_refused(project: Project):
    output = project.module("reproduce", "0" * 32, code=1)
    assert "cannot be read" in output
    assert "Traceback" not in output


def test_a_job_of_a_sweep_has_the_weights_of_the_pipelines_run(project: Project, tmp_path: Path):
    run_id = project.read("build/train/run.json")["run_id"]
    run = mlflow.MlflowClient(project.store).get_run(run_id)
    store = f"sqlite:///{tmp_path / 'sweep.db'}"
    project.module(
        "train", "--multirun", *SHRUNK, "training.seed=3,0", MLFLOW_TRACKING_URI=store
    )
    (job,) = mlflow.MlflowClient(store).search_runs(["1"], "params.`training.seed` = '0'")
    assert job.data.tags["weights_sha256"] == run.data.tags["weights_sha256"]
