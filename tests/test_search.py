"""Searches through the real command line: what they propose, prune and leave, and continue."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import optuna
import pytest

from conftest import SHRUNK, Project, children, copy_of, parent_of

SMALL = [*SHRUNK, "training.threads=1", "optimizer.schedule=constant"]
# a search that prunes from its second trial on
SEARCH = [
    *SMALL, "search=compact", "training.epochs=3", "hydra.sweeper.sampler.n_startup_trials=3",
    "hydra.sweeper.pruner.n_startup_trials=1", "hydra.sweeper.pruner.n_warmup_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project."""
    return copy_of(project, tmp_path_factory.mktemp("search") / "project")


def trials_of(project: Project) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the only search of a project with more than one trial to its name."""
    (file,) = (project.folder / "runs/searches").glob("*.db")
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{file}")
    return optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{file}").trials


def kill_in_trial(project: Project, number: int, *words: str) -> None:
    """Start a search, and kill it in the middle of a trial."""
    log = project.folder / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "image_classifier", "train", "--multirun", *words],
            cwd=project.folder, env=project.environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    for _ in range(3000):
        if log.read_text().count("Epoch 1/") > number:
            break
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check_a_killed_search(project: Project, folder: Path, trials: int, more: int, kill: int):
    """Kill a search, continue it, and add trials; compare it with one that nothing interrupted."""
    whole, killed = (copy_of(project, folder / name) for name in ("whole", "killed"))
    words = [*SEARCH, "tracking.register_models=best"]
    first = whole.command("train", "--multirun", *words, f"hydra.sweeper.n_trials={trials + more}")
    expected = trials_of(whole)
    states = [trial.state.name for trial in expected]
    assert states.count("PRUNED") >= 1
    assert f"{states.count('PRUNED')} pruned" in first

    kill_in_trial(killed, kill, *words, f"hydra.sweeper.n_trials={trials}")
    output = killed.command("train", "--multirun", *words, f"hydra.sweeper.n_trials={trials}")
    assert "1 interrupted, which continue now" in output
    assert output.count("Launching 1 jobs") == trials - kill
    output = killed.command(
        "train", "--multirun", *words, f"hydra.sweeper.n_trials={trials + more}"
    )
    assert f"The search has {trials} of {trials + more} trials" in output
    assert output.count("Launching 1 jobs") == more

    found = trials_of(killed)
    assert [trial.params for trial in found] == [trial.params for trial in expected]
    assert [trial.state.name for trial in found] == states
    assert [trial.value for trial in found] == [trial.value for trial in expected]
    runs = children(killed, parent_of(output))
    assert len(runs) == trials + more
    assert {run.info.status for run in runs} == {"FINISHED"}
    undisturbed = children(whole, parent_of(first))
    weights = [
        sorted(run.data.tags["weights_sha256"] for run in part) for part in (runs, undisturbed)
    ]
    assert weights[0] == weights[1]
    pruned = [run for run in runs if "pruned_after_epoch" in run.data.tags]
    assert len(pruned) == states.count("PRUNED")
    assert not any("stored_model" in run.data.tags for run in pruned)


@pytest.mark.slow
def test_a_killed_search_goes_on_and_takes_more_trials(project: Project, tmp_path: Path):
    check_a_killed_search(project, tmp_path, trials=3, more=1, kill=1)


@pytest.mark.slow
def test_a_killed_search_of_twenty_trials_takes_ten_more(project: Project, tmp_path: Path):
    check_a_killed_search(project, tmp_path, trials=20, more=10, kill=10)


def test_a_search_minimises_the_validation_loss_and_survives_failing_trials(place: Project):
    words = [*SMALL, "training.epochs=1", "search=compact", "model.dropout=0.3"]
    words += ["training.batch_size=choice(8,60000)"]
    output = place.command("train", "--multirun", *words, "hydra.sweeper.n_trials=4", code=1)
    parent = parent_of(output)
    client = mlflow.MlflowClient(place.store)
    runs = children(place, parent)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    assert 1 <= len(finished) < len(runs) == 4
    assert f"{len(finished)} jobs finished, {4 - len(finished)} failed" in output
    assert "training.batch_size=60000 is more than the" in output
    assert "Traceback" not in output
    assert len({run.data.params["optimizer.learning_rate"] for run in finished}) == len(finished)
    best = client.get_run(parent).data.tags
    values = [run.data.metrics["best_val_loss"] for run in finished]
    assert float(best["best.value"]) == min(values)
    assert best["best.version"].startswith("models:/")
    registered = [run for run in finished if "registered_version" in run.data.tags]
    assert [run.info.run_id for run in registered] == [best["best.run_id"]]
    # what the command fixes is not searched, and is not recorded as searched
    assert "model.dropout is set on the command line: the search does not vary it." in output
    assert "training.batch_size is set" not in output  # the command gives it several values
    assert "model.dropout=0.3" in best["search_space"]
    assert "model.dropout=interval" not in best["search_space"]
    assert {run.data.params["model.dropout"] for run in finished} == {"0.3"}


@pytest.mark.slow
def test_two_commands_in_two_folders_work_on_one_search(project: Project, tmp_path: Path):
    copies = [copy_of(project, tmp_path / name) for name in ("one", "two")]
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    words = [*SEARCH, "hydra.sweeper.n_trials=6", f"hydra.sweeper.storage={storage}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "image_classifier", "train", "--multirun", *words],
            cwd=copy.folder, env=copy.environment | {"MLFLOW_TRACKING_URI": copies[0].store},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for copy in copies
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert parent_of(outputs[0]) == parent_of(outputs[1])
    assert all("Launching 1 jobs" in output for output in outputs)  # both had work
    study = optuna.load_study(study_name=None, storage=storage)
    assert 6 <= len(study.trials) <= 7  # both may begin the last one
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "PRUNED"}
    runs = children(copies[0], parent_of(outputs[0]))
    assert len(runs) == len(study.trials)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = mlflow.MlflowClient(copies[0].store).get_run(parent_of(outputs[0]))
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["jobs_finished"] == len(runs)


@pytest.mark.slow
def test_hyperband_with_two_trials_at_a_time(place: Project):
    words = ["search=compact", "hydra/sweeper/pruner=hyperband", "hydra/sweeper/sampler=random"]
    words += ["launch=cores", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=2"]
    output = place.command("train", "--multirun", *SMALL, "training.epochs=1", *words)
    assert "2 jobs finished, 0 failed" in output
