"""Sweeps through the real command line: what they leave, and how they go on after a death."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import yaml

from conftest import SHRUNK, Project, children, copy_of, parent_of
from image_classifier.tracking import runs

SMALL = [*SHRUNK, "training.epochs=1"]
NOT_STORED = "tracking.register_models=none"  # saves time


@pytest.fixture(scope="module")
def swept(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project, with a sweep of three jobs of which one fails."""
    copy = copy_of(project, tmp_path_factory.mktemp("swept") / "project")
    copy.output = copy.command(
        "train", "--multirun", *SMALL, "training.threads=1", "model.dropout=0.1,0.3,7", code=1
    )
    return copy


def test_the_jobs_of_a_sweep_are_no_looks_at_the_test_images(swept: Project):
    jobs = children(swept, parent_of(swept.output))
    assert len(jobs) == 3
    marks = [tag for job in jobs for tag in job.data.tags if tag.startswith(("test_", "eval"))]
    assert not marks


def test_a_job_with_a_wrong_setting_is_a_failed_run_with_its_error(swept: Project):
    assert "2 jobs finished, 1 failed" in swept.output
    assert "failed:" in swept.output
    assert "Traceback" not in swept.output
    (failed,) = [
        run for run in children(swept, parent_of(swept.output)) if run.info.status == "FAILED"
    ]
    assert "model.dropout" in failed.data.tags["error"]
    assert "model.dropout=7" in json.loads(failed.data.tags["overrides"])


def test_the_parent_run_has_search_space_costs_and_results(swept: Project, tmp_path: Path):
    client = mlflow.MlflowClient(swept.store)
    parent = client.get_run(parent_of(swept.output))
    assert "model.dropout=0.1,0.3,7" in parent.data.tags["search_space"]
    assert "--multirun" in parent.data.tags["command"]
    live = client.get_metric_history(parent.info.run_id, "best_val_loss")
    assert [metric.step for metric in live] == [1, 2]
    assert live[-1].value == min(metric.value for metric in live)
    done = [run for run in children(swept, parent.info.run_id) if run.info.status == "FINISHED"]
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["jobs_failed"] == 1
    assert len({run.info.run_name for run in done}) == 2
    assert len({run.data.tags["registered_version"] for run in done}) == 2
    # compact goes by the validation loss
    best = client.get_run(parent.data.tags["best.run_id"])
    assert best.data.metrics["best_val_loss"] == live[-1].value
    assert float(parent.data.tags["best.value"]) == live[-1].value
    assert best.info.run_name in swept.output
    assert f"image-classifier adopt {best.info.run_id} NAME" in swept.output
    for name in ("train_seconds", "cpu_seconds", "stored_bytes"):
        total = sum(run.data.metrics[name] for run in done)
        assert parent.data.metrics[f"sum_{name}"] == pytest.approx(total)
        assert total > 0
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "sweep")}
    assert files == {"sweep/results.csv", "sweep/results.png"}
    table = client.download_artifacts(parent.info.run_id, "sweep/results.csv", str(tmp_path))
    with Path(table).open() as file:
        assert {row["model.dropout"] for row in csv.DictReader(file)} == {"0.1", "0.3"}


def test_the_same_command_again_runs_only_what_is_not_finished(swept: Project):
    before = {run.info.run_id for run in children(swept, parent_of(swept.output))}
    again = swept.command(
        "train", "--multirun", *SMALL, "training.threads=1", "model.dropout=0.1,0.3,7", code=1
    )
    assert parent_of(again) == parent_of(swept.output)
    assert again.count("Finished already, skipped:") == 2
    assert {run.info.run_id for run in children(swept, parent_of(again))} == before


def test_a_killed_sweep_continues_and_every_job_finishes_once(swept: Project):
    command = [sys.executable, "-m", "image_classifier", "train", "--multirun", *SMALL]
    command += ["training.seed=10,11,12"]
    log = swept.folder / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=swept.folder, env=swept.environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    for _ in range(3000):  # the first job is done, the second began
        if log.read_text().count("classes: ") >= 2:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    output = swept.python(*command[1:])
    assert "1 of its jobs are finished already" in output
    assert "3 jobs finished, 0 failed" in output
    runs = children(swept, parent_of(output))
    done = [run for run in runs if run.info.status == "FINISHED"]
    assert sorted(run.data.params["training.seed"] for run in done) == ["10", "11", "12"]
    assert len(runs) == 3  # the job that was killed went on in its run


@pytest.mark.parametrize(
    "launcher",
    ["cores", *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray"))],
)
def test_every_launcher_gives_the_same_weights(swept: Project, launcher: str):
    output = swept.command("train", "--multirun", *SMALL, f"launch={launcher}",
                          "model.dropout=0.1,0.3")  # fmt: skip
    assert "2 jobs finished, 0 failed" in output
    serial = children(swept, parent_of(swept.output))
    here = children(swept, parent_of(output))
    digests = [
        {run.data.tags["weights_sha256"] for run in runs if run.info.status == "FINISHED"}
        for runs in (serial, here)
    ]
    assert digests[0] == digests[1]
    assert {run.data.tags["threads"] for run in here} == {"1"}


def test_without_registration_only_metrics_are_stored(swept: Project):
    output = swept.command("train", "--multirun", *SMALL, NOT_STORED, "training.seed=20")
    (run,) = children(swept, parent_of(output))
    assert not run.outputs.model_outputs
    assert "best_val_loss" in run.data.metrics
    output = swept.command("train", *SMALL, NOT_STORED, code=1)
    assert "is for sweeps" in output


def test_a_winner_is_adopted_and_dvc_repeats_it(swept: Project, tmp_path: Path):
    client = mlflow.MlflowClient(swept.store)
    best = client.get_run(parent_of(swept.output)).data.tags["best.run_id"]
    run = client.get_run(best)
    swept.command("adopt", best, "winner")
    preset = (swept.folder / "conf/experiment/winner.yaml").read_text()
    assert f"{run.data.metrics['best_val_loss']:.4f}" in preset.splitlines()[1]
    settings = yaml.safe_load(preset)
    assert settings["training"]["threads"] == 1
    assert not {"dataset", "split", "model"} & set(settings)  # they are as elsewhere in conf/
    assert "\n  name: compact\n" in swept.command("config")
    assert "\n  name: article\n" in swept.command("config", "model=article")
    swept.run(sys.executable, "docs/configuration.py")  # as `make params` does
    swept.run("dvc", "repro", "train")
    repeated = client.get_run(swept.read("build/train/run.json")["run_id"])
    assert repeated.data.tags["weights_sha256"] == run.data.tags["weights_sha256"]
    assert "exists already" in swept.command("adopt", best, "winner", code=1)
    text = Path(client.download_artifacts(best, "config/params.yaml", str(tmp_path))).read_text()
    assert "  grey: 0.0\n" in text
    client.log_text(best, text.replace("  grey: 0.0\n", ""), "config/params.yaml")
    swept.command("adopt", best, "of_a_run_older_than_a_key")
    client.log_text(best, text, "config/params.yaml")
    assert "is not in sqlite:" in swept.command("adopt", "0" * 32, "other", code=1)
    assert not (swept.folder / "conf/experiment/other.yaml").exists()


@pytest.mark.slow
def test_a_job_is_repeated_to_the_last_bit(swept: Project):
    best = mlflow.MlflowClient(swept.store).get_run(parent_of(swept.output)).data.tags
    output = swept.command("reproduce", best["best.run_id"])
    assert "weights  equal" in output
    assert "DIFFERENT" not in output


def test_losers_lose_their_models_and_keep_their_metrics(swept: Project):
    parent = parent_of(swept.output)
    client = mlflow.MlflowClient(swept.store)
    best = client.get_run(parent).data.tags["best.run_id"]
    listed = swept.command("prune", parent, code=1)
    assert "nothing is deleted. Add --yes to delete 1 model," in listed
    kept, lost = listed.split("Loses its model")
    assert best in kept and "best job" in kept and best not in lost
    assert len(client.search_model_versions()) > 1
    assert "1 model deleted" in swept.command("prune", parent, "--yes")
    for run in children(swept, parent):
        if run.info.status == "FINISHED":
            left = client.search_model_versions(f"run_id = '{run.info.run_id}'")
            assert bool(left) == (run.info.run_id == best)
            assert "best_val_loss" in run.data.metrics
    assert "0 models deleted" in swept.command("prune", parent)
    assert "is not a finished sweep" in swept.command("prune", best, code=1)
    assert "is not in sqlite:" in swept.command("prune", "0" * 32, code=1)


@pytest.mark.slow
def test_the_same_sweep_twice_at_once_is_refused(swept: Project):
    command = [sys.executable, "-m", "image_classifier", "train", "--multirun", *SMALL]
    command += ["training.seed=30", NOT_STORED]
    before = len(list(swept.folder.glob("runs/*.lock")))
    first = subprocess.Popen(
        command, cwd=swept.folder, env=swept.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while len(list(swept.folder.glob("runs/*.lock"))) == before:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    assert "is already running" in swept.python(*command[1:], code=1)
    assert "1 jobs finished" in first.communicate()[0]


@pytest.mark.slow
def test_with_other_settings_in_conf_the_same_command_is_another_sweep(swept: Project):
    conf = swept.folder / "conf/optimizer/adam_cosine.yaml"
    before = conf.read_text()
    conf.write_text(before.replace("0.005", "0.004"))
    try:
        again = swept.command(
            "train", "--multirun", *SMALL, "training.threads=1", "model.dropout=0.1,0.3,7", code=1
        )
    finally:
        conf.write_text(before)
    assert parent_of(again) != parent_of(swept.output)
    assert "Finished already" not in again


@pytest.mark.slow
def test_eight_jobs_at_once_on_a_fresh_sqlite_store_lose_nothing(swept: Project, tmp_path: Path):
    store = f"sqlite:///{tmp_path / 'fresh.db'}"
    commands = [
        [sys.executable, "-m", "image_classifier", "train", "--multirun", *SMALL,
         "training.threads=1", f"training.seed={2 * number},{2 * number + 1}"]
        for number in range(8)
    ]  # fmt: skip
    environment = swept.environment | {"MLFLOW_TRACKING_URI": store}
    folders = len(list(swept.folder.glob("runs/*_sweep")))
    processes = [
        subprocess.Popen(
            command, cwd=swept.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for command in commands
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    assert len(list(swept.folder.glob("runs/*_sweep"))) == folders + 8
    for output in outputs:
        assert "2 jobs finished, 0 failed" in output, output
    client = mlflow.MlflowClient(store)
    runs = client.search_runs(["1"], "params.`training.threads` = '1'")
    assert sorted(int(run.data.params["training.seed"]) for run in runs) == list(range(16))
    assert len({run.data.tags["registered_version"] for run in runs}) == 16
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "val/loss")) == 1
        assert client.list_artifacts(run.info.run_id, "training")


@pytest.mark.parametrize(
    ("launcher", "environment", "expected"),
    [
        ("slurm", {}, "the command sbatch was not found"),
        ("ray", {"TMPDIR": "long"}, "TMPDIR=/tmp image-classifier"),
        ("ray", {"RAY_ADDRESS": "127.0.0.1:1"}, "the Ray cluster at 127.0.0.1:1"),
    ],
)  # fmt: skip
def test_a_launcher_that_cannot_run_is_reported_before_a_run_is_opened(
    swept: Project, tmp_path: Path, launcher: str, environment: dict[str, str], expected: str
):
    if "TMPDIR" in environment:
        folder = tmp_path / ("x" * 95)
        folder.mkdir()
        environment = {"TMPDIR": str(folder)}
    client = mlflow.MlflowClient(swept.store)
    before = len(client.search_runs(["1"]))
    output = swept.command("train", "--multirun", *SMALL, f"launch={launcher}",
                          "training.seed=40", code=1, **environment)  # fmt: skip
    assert expected in output
    assert "MLflow" not in output
    assert "Traceback" not in output
    assert len(client.search_runs(["1"])) == before


def test_hundreds_of_overrides_and_a_long_one_close_well(swept: Project):
    words = [f"optimizer.learning_rate=0.001{number:03}" for number in range(400)]
    note = "n" * 9000
    output = swept.command(
        "train", "--multirun", *SMALL, NOT_STORED, *words, f"dataset.note={note}",
        "training.seed=41",
    )  # fmt: skip
    assert "1 jobs finished, 0 failed" in output
    client = mlflow.MlflowClient(swept.store)
    parent = client.get_run(parent_of(output))
    assert parent.info.status == "FINISHED"
    assert "… (cut: " in parent.data.tags["command"]
    (run,) = children(swept, parent.info.run_id)
    assert f"dataset.note={note}" in runs.overrides_of(run)
    assert run.data.params["dataset.note"].endswith("characters, all in config/params.yaml)")


def test_an_unknown_setting_is_reported_before_a_run_is_opened(swept: Project):
    client = mlflow.MlflowClient(swept.store)
    before = len(client.search_runs(["1"]))
    output = swept.command("train", "--multirun", *SMALL, "model.dropot=0.1,0.2", code=1)
    assert "Did you mean model.dropout?" in output
    assert len(client.search_runs(["1"])) == before


@pytest.mark.slow
def test_a_job_that_another_sweep_finished_is_not_trained_again(swept: Project):
    output = swept.command(
        "train", "--multirun", *SMALL, "training.threads=1", "model.dropout=0.1,0.45"
    )
    (reused,) = [
        run for run in children(swept, parent_of(output)) if "reused_from" in run.data.tags
    ]
    client = mlflow.MlflowClient(swept.store)
    original = client.get_run(reused.data.tags["reused_from"])
    assert original.data.params == reused.data.params
    for name in ("best_val_loss", "val/loss", "validation_accuracy"):
        assert original.data.metrics[name] == reused.data.metrics[name]
    assert reused.data.tags["weights_sha256"] == original.data.tags["weights_sha256"]
    assert f"Finished already in MLflow run {original.info.run_id}" in output
    assert "2 jobs finished, 0 failed" in output
    # with other code it is another job
    code = swept.folder / "src/image_classifier/training/compilation.py"
    text = code.read_text()
    code.write_text(f"{text}# changed\n")
    output = swept.command("train", "--multirun", *SMALL, "training.threads=1",
                          "model.dropout=0.1", NOT_STORED)  # fmt: skip
    code.write_text(text)
    assert "Finished already" not in output
