"""Signals of a person, a scheduler or a closed terminal, at every kind of moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow.entities import Run

from conftest import SHRUNK, Project, copy_of
from image_classifier.project import processes, signals
from image_classifier.tracking import runs

# neither epochs nor patience end these trainings
LONG = [word for word in SHRUNK if not word.startswith("training.")] + [
    "training.epochs=100000",
    "training.patience=100000",
]
COMMAND = [sys.executable, "-m", "image_classifier"]
SWEEP = ["train", "--multirun", *LONG, "training.seed=1,2,3"]


@pytest.fixture(scope="module")
def place(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project, whose pipeline would train for hours."""
    place = copy_of(project, tmp_path_factory.mktemp("signals") / "project")
    params = place.folder / "params.yaml"
    text = params.read_text()
    for setting in ("  epochs: 2\n", "  patience: 12\n"):
        assert setting in text
        text = text.replace(setting, f"{setting.partition(':')[0]}: 100000\n")
    params.write_text(text)
    return place


def all_runs(place: Project) -> list[Run]:
    client = mlflow.MlflowClient(place.store)
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def opened(number: int, place: Project, process: subprocess.Popen) -> bool:
    """Return whether that many runs are open."""
    return sum(run.info.status == "RUNNING" for run in all_runs(place)) == number


def in_epoch(place: Project, process: subprocess.Popen) -> bool:
    return "val_loss: " in (place.folder / "ended.log").read_text()


def in_tensorflow(place: Project, process: subprocess.Popen) -> bool:
    """Return whether a process imports TensorFlow."""
    return any("tensorflow" in file.path for file in psutil.Process(process.pid).memory_maps())


def end(
    place: Project,
    command: list[str],
    moment: Callable[[Project, subprocess.Popen], bool],
    sent: list[signal.Signals],
    group: bool = False,
) -> tuple[int, str]:
    """Send signals to a command at a moment; return its exit code, and what it printed after it.

    Whatever the command has started ends with it, and no run stays open.

    Args:
        place: Where it runs.
        command: The command.
        moment: Called until it returns True.
        sent: The signals.
        group: Send them as a terminal does, to all processes.
    """
    log = place.folder / "ended.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=place.folder, env=place.environment, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file, start_new_session=True,
            # background jobs and nohup, in which the tests may run, ignore some of them
            preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in signals.SIGNALS],
        )  # fmt: skip
    while not moment(place, process):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    length = log.stat().st_size
    started = psutil.Process(process.pid).children(recursive=True)
    for number in sent:
        (os.killpg if group else os.kill)(process.pid, number)
    code = process.wait(60)
    assert not psutil.wait_procs(started, 30)[1]
    assert not [run for run in all_runs(place) if run.info.status == "RUNNING"]
    with log.open() as file:
        file.seek(length)
        return code, file.read()


def lines_of_the_end(output: str) -> list[str]:
    words = ("stopped by", "Error", "Traceback", "Exception")
    return [line for line in output.splitlines() if any(word in line for word in words)]


def test_ctrl_c_twice_ends_a_training_which_the_same_command_continues(place: Project):
    command = [*COMMAND, "train", *LONG]
    code, output = end(place, command, in_epoch, [signal.SIGINT, signal.SIGINT], group=True)
    assert code == -signal.SIGINT
    assert lines_of_the_end(output) == [
        "train: stopped by SIGINT. To continue, run the command again."
    ]
    (run,) = [run for run in all_runs(place) if run.info.status == "KILLED"]
    assert run.info.end_time

    code, output = end(place, command, in_tensorflow, [signal.SIGTERM])  # no run is open
    assert code == -signal.SIGTERM
    assert len(lines_of_the_end(output)) == 1

    code, _ = end(place, command, in_epoch, [signal.SIGHUP])
    assert code == -signal.SIGHUP
    assert "Continuing an earlier attempt" in (place.folder / "ended.log").read_text()
    (again,) = [run for run in all_runs(place) if run.info.status == "KILLED"]
    assert again.info.run_id == run.info.run_id
    assert again.info.end_time > run.info.end_time


@pytest.mark.parametrize(
    ("words", "number", "group"),
    [
        (SWEEP, 2, False),  # the run of the sweep, and a job
        pytest.param([*SWEEP, "launch=cores"], 3, False, marks=pytest.mark.slow),
        pytest.param([*SWEEP, "launch=cores"], 3, True, marks=pytest.mark.slow),
        pytest.param([*SWEEP, "launch=processes"], 4, False, marks=pytest.mark.slow),
        pytest.param(
            ["train", "--multirun", *LONG, "search=compact"], 2, True, marks=pytest.mark.slow
        ),
    ],
)
def test_sigterm_ends_a_sweep_with_its_jobs(
    place: Project, words: list[str], number: int, group: bool
):
    before = 1000 * time.time()
    code, output = end(
        place, COMMAND + words, lambda *of: opened(number, *of), [signal.SIGTERM], group
    )
    assert code == -signal.SIGTERM
    assert lines_of_the_end(output) == [
        "train: stopped by SIGTERM. To continue, run the command again."
    ]
    # also jobs that another launcher began, and that this sweep continues
    ended = [run for run in all_runs(place) if (run.info.end_time or 0) > before]
    assert [run.info.status for run in ended] == ["KILLED"] * number


@pytest.mark.parametrize(
    # sh waits for the stage's command, bash is replaced by it
    "shell",
    ["/bin/sh", pytest.param("/bin/bash", marks=pytest.mark.slow)],
)
def test_sigterm_for_dvc_ends_its_stage(
    place: Project, shell: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(place.environment, "SHELL", shell)
    code, output = end(place, ["dvc", "repro", "train"], in_epoch, [signal.SIGTERM])
    assert code == -signal.SIGTERM
    assert lines_of_the_end(output) == [
        "train: stopped by SIGTERM. To continue, run the command again."
    ]


@pytest.mark.slow
def test_sigterm_ends_an_evaluation(project: Project, tmp_path: Path):
    place = copy_of(project, tmp_path / "project")
    code, _ = end(place, [*COMMAND, "evaluate"], lambda *of: opened(1, *of), [signal.SIGTERM])
    assert code == -signal.SIGTERM
    client, run_id = mlflow.MlflowClient(place.store), place.read("build/train/run.json")["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    place.command("evaluate")
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "data/test", "data/train", "--output", "all.csv"],
        ["export", "exported", "--format", "saved_model"],
    ],
)
def test_sigterm_leaves_no_half_of_an_output(place: Project, words: list[str]):
    written = place.folder / ("all.csv" if "all.csv" in words else "exported")
    for seconds in (4, 6, 7, 8, 9, 10):
        after = time.monotonic() + seconds
        code, output = end(
            place, COMMAND + words, lambda *of, t=after: time.monotonic() > t, [signal.SIGTERM]
        )
        if not lines_of_the_end(output):  # the command had finished its work
            assert code in (0, -signal.SIGTERM)
            assert written.exists()
            break
        assert code == -signal.SIGTERM
        assert not written.exists(), seconds


@pytest.mark.slow
def test_sigterm_ends_the_pipeline_that_repeats_a_run(project: Project, tmp_path: Path):
    place = copy_of(project, tmp_path / "project")
    words = [*COMMAND, "reproduce", place.read("build/train/run.json")["run_id"]]

    def repeating(place: Project, process: subprocess.Popen) -> bool:
        return "Running stage 'prepare'" in (place.folder / "ended.log").read_text()

    code, output = end(place, words, repeating, [signal.SIGTERM])
    assert code == -signal.SIGTERM
    assert len(lines_of_the_end(output)) == 1


@pytest.mark.slow
def test_a_shell_ends_the_loop_in_which_the_command_runs(place: Project):
    command = f"{' '.join(COMMAND)} train {' '.join(LONG)}"
    loop = ["bash", "-c", f"for i in 1 2 3; do {command}; done"]
    code, output = end(place, loop, in_epoch, [signal.SIGINT], group=True)
    assert code == -signal.SIGINT
    assert len(lines_of_the_end(output)) == 1


def test_only_runs_whose_process_is_gone_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("any", str(tmp_path))
    code = "from image_classifier.project import processes; print(processes.this_process())"
    gone = subprocess.run(
        [sys.executable, "-c", f"{code}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; input()"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as alive:  # fmt: skip
        running = alive.stdout.readline().strip()
        machine, number, started = gone.rsplit(maxsplit=2)
        tags = {
            "killed": gone,
            "running": running,
            "on another machine": f"another-{machine} {number} {started}",
            "in another container of this name": f"{machine}0 {number} {started}",
            "here": processes.this_process(),
        }
        made = {
            name: client.create_run(experiment, run_name=name, tags={runs.PROCESS: process})
            for name, process in tags.items()
        }
        made["of another program"] = client.create_run(experiment, run_name="of another program")
        killed = made["killed"].info
        client.log_metric(killed.run_id, "loss", 1, timestamp=killed.start_time + 5000)
        client.log_metric(killed.run_id, "loss", 1, timestamp=killed.start_time + 7000)
        runs.close_ended()
        alive.communicate()
    now = {name: client.get_run(run.info.run_id).info for name, run in made.items()}
    assert {name for name, info in now.items() if info.status != "RUNNING"} == {"killed"}
    assert now["killed"].status == "KILLED"
    assert now["killed"].end_time == killed.start_time + 7000
    assert capsys.readouterr().out == (
        f"MLflow run {killed.run_id}: its process was killed. It is closed as KILLED now.\n"
    )
    runs.close_own()
    ended = {n for n, run in made.items() if client.get_run(run.info.run_id).info.end_time}
    assert ended == {"killed", "here"}
