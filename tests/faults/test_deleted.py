"""Runs, versions, experiments and files that somebody deleted in MLflow are reported as that."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from conftest import SHRUNK, Project, copy_of
from image_classifier.sweeps import parent_run
from image_classifier.tracking import registry, runs
from image_classifier.tracking.verified_models import verified_files

NAME = "synthetic-xray-classifier"


@pytest.fixture(scope="module")
def ran(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that ran, of our own."""
    return copy_of(project, tmp_path_factory.mktemp("deleted") / "project")


@pytest.fixture
def mine(ran: Project, tmp_path: Path) -> Iterator[Project]:
    """That project; its store and its results are restored after the test."""
    folders = ("mlartifacts", "build/evaluate", "build/promote")
    for name in folders:
        shutil.copytree(ran.folder / name, tmp_path / name)
    shutil.copy(ran.folder / "mlflow.db", tmp_path)
    yield ran
    for name in folders:
        shutil.rmtree(ran.folder / name)
        shutil.copytree(tmp_path / name, ran.folder / name)
    shutil.copy(tmp_path / "mlflow.db", ran.folder)  # into the file that MLflow has opened


def trained(project: Project) -> str:
    return project.read("build/train/run.json")["run_id"]


def message(project: Project, *words: str) -> str:
    """Run a command that fails; return its message, which is one line."""
    output = project.command(*words, code=1)
    assert "Traceback" not in output
    assert "does not answer" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"{words[0]}: ")
    return last


def test_a_deleted_run_is_restored_by_the_command_in_the_message(mine: Project):
    run_id, picture = trained(mine), str(next((mine.folder / "data").rglob("*.jpg")))
    restore = f"mlflow runs restore --run-id {run_id}"
    mlflow.MlflowClient(mine.store).delete_run(run_id)
    for stage in ("evaluate", "promote"):
        assert f"run {run_id} was deleted: `{restore}`" in message(mine, stage)
    mine.command("predict", picture)  # needs only the version
    # its exit code depends on the runs that other tests have added
    seen = mine.run("sh", "-c", f"python -m image_classifier seen {picture} || true")
    assert "1 (deleted run)" in seen
    mine.run(*restore.split())
    mine.command("promote")


def collected(project: Project, run_id: str) -> None:
    """Delete a run, and let `mlflow gc` remove it."""
    mlflow.MlflowClient(project.store).delete_run(run_id)
    gc = ["mlflow", "gc", "--backend-store-uri", project.store]
    gc += ["--artifacts-destination", str(project.folder / "mlartifacts")]
    project.run(*gc, MLFLOW_TRACKING_URI=project.store)


def removed(project: Project, run_id: str) -> None:
    """Remove a run as `mlflow gc` does, which takes long."""
    client = mlflow.MlflowClient(project.store)
    shutil.rmtree(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    remove(client, run_id)


@pytest.mark.parametrize("how", [removed, pytest.param(collected, marks=pytest.mark.slow)])
def test_a_run_that_mlflow_gc_removed_is_not_restored(mine: Project, how: Callable):
    run_id, picture = trained(mine), str(next((mine.folder / "data").rglob("*.jpg")))
    how(mine, run_id)
    for stage in ("evaluate", "promote"):
        said = message(mine, stage)
        assert "`mlflow gc` removed it, or it is in another store" in said
        assert "`dvc repro -f -s train`" in said
    for words in (["adopt", run_id, "mine"], ["reproduce", run_id], ["prune", run_id]):
        assert "`mlflow gc` removed it" in message(mine, *words)
    mine.command("predict", picture)


def test_a_deleted_experiment_is_named_with_its_command(mine: Project):
    client = mlflow.MlflowClient(mine.store)
    experiment = client.get_run(trained(mine)).info.experiment_id
    client.delete_experiment(experiment)
    restore = f"mlflow experiments restore --experiment-id {experiment}"
    text = f"experiment image-classifier was deleted, and with it run {trained(mine)}: `{restore}`"
    for stage in ("evaluate", "promote"):
        assert text in message(mine, stage)
    output = mine.command("train", "--multirun", *SHRUNK, "training.seed=1,2", code=1)
    assert f"was deleted: `{restore}`" in output
    assert "Epoch 1" not in output
    client.restore_experiment(experiment)
    mine.command("promote")


def test_a_version_or_its_files_that_were_deleted_are_named(mine: Project):
    client = mlflow.MlflowClient(mine.store)
    version = client.get_model_version(NAME, "1")
    picture = str(next((mine.folder / "data").rglob("*.jpg")))
    address = client.get_model_version_download_uri(NAME, "1")
    other = client.create_model_version(NAME, address, version.run_id)
    place = address.removeprefix("file://")
    shutil.rmtree(place)
    for words in (["predict", picture], ["drift", picture], ["serve", "--port", "0"], ["promote"]):
        said = message(mine, *words)
        assert f"The files of models:/{NAME}/1 were deleted from file://{place}" in said
        assert "`dvc repro -f -s train`" in said
    client.delete_model_version(NAME, "1")
    said = message(mine, "predict", picture, "--model", f"models:/{NAME}/1")
    assert (
        f"Version 1 of {NAME} was deleted. The last versions that exist: " in said
        and f"{other.version}." in said
    )
    assert "has no registered model" in message(mine, "predict", picture)
    assert "`dvc repro -f -s evaluate`" in message(mine, "promote")
    start = f"training.start_from=models:/{NAME}/1"
    assert "Version 1 of" in message(mine, "train", *SHRUNK, start)
    # the same model is registered again
    mine.command("evaluate")
    mine.command("promote")
    mine.command("predict", picture)


def test_a_project_that_was_moved_is_used_with_a_link_at_its_old_place(
    mine: Project, tmp_path: Path
):
    old = tmp_path / "old place"
    tables = {"model_versions": "storage_location", "logged_models": "artifact_location"}
    with sqlite3.connect(mine.folder / "mlflow.db") as database:
        for table, column in tables.items():
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (str(mine.folder), str(old)),
            )
    picture = str(next((mine.folder / "data").rglob("*.jpg")))
    said = message(mine, "predict", picture)
    assert f"looks for them in {old}/mlartifacts: the project was moved" in said
    command = said.split("`")[-2]
    assert command == f"ln -s {mine.folder} '{old}'"
    mine.run("sh", "-c", command)
    mine.command("predict", picture)


def test_the_settings_of_a_run_whose_files_were_deleted_are_missed(mine: Project):
    run_id = trained(mine)
    place = mlflow.MlflowClient(mine.store).get_run(run_id).info.artifact_uri
    shutil.rmtree(place.removeprefix("file://"))
    for words in (["adopt", run_id, "mine"], ["reproduce", run_id]):
        assert f"files of MLflow run {run_id} were deleted from {place}" in message(mine, *words)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """An empty store in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def job(store: mlflow.MlflowClient, parent: str, seed: int, **tags: str) -> str:
    """Add a finished job to a sweep; return its run."""
    tags = {"mlflow.parentRunId": parent, "job_key": f"key {seed}", "overrides": "[]"} | tags
    run_id = store.create_run("1", tags=tags).info.run_id
    store.log_param(run_id, "training.fold", "0")
    store.log_metric(run_id, "best_val_loss", seed)
    store.set_terminated(run_id)
    return run_id


def sweep(store: mlflow.MlflowClient) -> tuple[str, list[str]]:
    """Begin a sweep with five finished jobs, of which the first is the best."""
    parent, done = parent_run.start("sweeps", "key", ["training.seed=1,2"], [])
    assert not done
    jobs = [job(store, parent, seed) for seed in range(5)]
    store.set_tag(parent, "best.run_id", jobs[0])
    return parent, jobs


def test_a_sweep_that_goes_on_says_which_of_its_runs_were_deleted(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture
):
    parent, jobs = sweep(store)
    for run_id in jobs[2:]:
        store.delete_run(run_id)
    assert parent_run.start("sweeps", "key", [], []) == (parent, 2)
    assert "Deleted in MLflow: 3 jobs of this sweep." in capsys.readouterr().out
    store.delete_run(parent)
    new, done = parent_run.start("sweeps", "key", [], [])
    assert (new != parent, done) == (True, 0)
    assert f"`mlflow runs restore --run-id {parent}`" in capsys.readouterr().out


def test_prune_says_which_jobs_were_deleted_and_keeps_the_last_model(
    store: mlflow.MlflowClient, tmp_path: Path, project: Project
):
    parent, jobs = sweep(store)
    for run_id in jobs[2:]:
        store.delete_run(run_id)
    here = Project(tmp_path)
    here.environment = project.environment
    output = here.command("prune", parent, "--yes")
    assert "3 of the 5 jobs were deleted in MLflow: their models stay." in output
    store.delete_run(jobs[0])
    output = here.command("prune", parent, code=1)
    assert f"`mlflow runs restore --run-id {jobs[0]}`. It is the best job" in output


def remove(store: mlflow.MlflowClient, run_id: str) -> None:
    """Remove a run, as `mlflow gc` does."""
    with sqlite3.connect(store.tracking_uri.removeprefix("sqlite:///")) as opened:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            opened.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run_id])


def test_a_copy_of_a_training_that_mlflow_gc_removed_is_trained_again(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    from image_classifier.config import compose

    parent, jobs = sweep(store)
    copied = job(store, parent, 9, **{runs.REUSED: jobs[0]})
    remove(store, jobs[0])
    monkeypatch.setenv(runs.SWEEP_VARIABLE, parent)
    config = compose.config_of("tracking.register_models=none")
    assert parent_run.reuse("key 9", "val_loss", [], config.tracking) is None
    assert not runs.has_predictions(jobs[0])
    assert runs.exists(copied)


def test_a_version_without_a_run_still_loads(mine: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine.store)
    remove(mlflow.MlflowClient(mine.store), trained(mine))
    with verified_files(f"models:/{NAME}/1") as (folder, version):
        assert (folder / "MLmodel").is_file()
        assert not registry.files_deleted(version)
