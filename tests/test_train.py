"""`image-classifier train`: one run, and sweeps."""

import re

import mlflow
import pytest

from conftest import SHRUNK, Project

NOT_STORED = "tracking.register_models=none"  # saves time


def test_one_run_composed_from_conf(project: Project):
    trained = project.read("build/train/run.json")["run_id"]
    output = project.command(
        "train", *SHRUNK, "model=article", "model.dense_units=4", "training.epochs=1",
        "hydra.job.chdir=true",  # all paths begin in the project's folder all the same
    )  # fmt: skip
    run_id = re.search(r"MLflow run (\w+), registered", output)[1]
    run = mlflow.MlflowClient(project.store).get_run(run_id)
    assert run.data.params["model.name"] == "article"
    assert run.data.params["model.dense_units"] == "4"
    assert run.info.run_name == "article filters=[16, 32] dense_units=4 epochs=1"
    # the pipeline's own model is untouched
    assert project.read("build/train/run.json")["run_id"] == trained
    assert "up to date" in project.run("dvc", "status")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lerning_rate=1", "Did you mean optimizer.learning_rate?"),
        ("model=compat", "Could not find 'model/compat'"),
        ("training.epochs=many", "training.epochs: Input should be a valid integer"),
        ("+training.foo=1", "training.foo: no such key"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: Input should be greater than 0"),
    ],
)
def test_a_bad_override_is_refused_before_any_work(project: Project, override: str, message: str):
    output = project.command("train", *SHRUNK, override, code=1)
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize("override", ["image.height=32", "split.seed=3"])
def test_images_prepared_otherwise_are_refused(project: Project, override: str):
    output = project.command("train", *SHRUNK, override, code=1)
    assert override.split("=")[0] in output
    assert "dvc exp run" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "override",
    ["split.seed=0,1", "dataset=embedded,covid_xray", "evaluation.threshold=0.3,0.5"],
)
def test_a_sweep_over_settings_outside_the_training_is_refused(project: Project, override: str):
    output = project.command("train", "--multirun", *SHRUNK, override, code=1)
    assert f"dvc exp run --queue -S '{override}'" in output


@pytest.mark.parametrize("override", ["launch=cores,processes", "search=compact,folds"])
def test_a_sweep_over_how_jobs_are_chosen_or_launched_is_refused(project: Project, override: str):
    output = project.command("train", "--multirun", *SHRUNK, override, code=1)
    assert f"train: {override}: a sweep has one {override.split('=')[0]}." in output


def test_a_job_of_a_sweep_has_the_weights_of_the_pipelines_run_and_another_seed_others(
    project: Project,
):
    output = project.command("train", "--multirun", *SHRUNK, NOT_STORED, "training.seed=5,0")
    parent = re.search(r"Sweep (\w+): 2 jobs finished", output)[1]
    client = mlflow.MlflowClient(project.store)
    jobs = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    weights = {job.data.params["training.seed"]: job.data.tags["weights_sha256"] for job in jobs}
    pipeline = client.get_run(project.read("build/train/run.json")["run_id"])
    assert weights["0"] == pipeline.data.tags["weights_sha256"] != weights["5"]
