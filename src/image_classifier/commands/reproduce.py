"""reproduce: repeats an MLflow run from what it recorded, and compares it with the original.

    image-classifier reproduce RUN_ID

Checks out the run's commit in a temporary folder, writes its settings to params.yaml, and runs the
pipeline there from the beginning, with the same number of threads and an MLflow store of its own.
Compares weights and metrics to the last bit; the exit code is 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.errors import InputError
from image_classifier.project import paths

if TYPE_CHECKING:
    from image_classifier.tracking.runs import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run_id", metavar="RUN_ID", help="the MLflow run to repeat")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code: 1 if the repeat differs."""
    return 0 if reproduce(arguments.run_id) else 1


def reproduce(run_id: str) -> bool:
    """Repeat a run and print the comparison; return whether everything is equal.

    Raises:
        InputError: the run does not exist or lacks what is needed, or its pipeline fails.
    """
    from image_classifier.tracking import connection, runs, start_from  # import MLflow

    with connection.require_mlflow():
        recorded = runs.record_of(run_id)
    tags = recorded.tags  # runs of earlier releases have `git.commit`
    commit = tags.get("dvc.exp_baseline_rev") or tags.get(runs.COMMIT) or tags.get("git.commit")
    if not recorded.settings:
        raise InputError(f"run {run_id} has no config/params.yaml: it is not a training.")
    if not commit:
        raise InputError(f"run {run_id} was made without git: its code is not known.")
    for warning in [*warnings(recorded.tags), *filter(None, [recorded.deleted])]:
        print(f"Note: {warning}.")
    with tempfile.TemporaryDirectory() as folder:
        project = check_out(commit, Path(folder) / "repository")
        (project / "params.yaml").write_text(recorded.settings)
        share_cache(project)
        store = paths.sqlite_address(project / "mlflow.db")
        stage = "evaluate" if "test_accuracy" in recorded.metrics else "train"
        if stage == "train":  # of a job; its validation metrics follow from the weights
            metrics = {
                name: values
                for name, values in recorded.metrics.items()
                if not name.startswith("validation_")
            }
            recorded = replace(recorded, metrics=metrics)
        print(f"Repeating run {run_id}: commit {commit[:12]}, {recorded.tags['threads']} threads.")
        command(
            "dvc", "repro", "--force", "--no-run-cache", stage, cwd=project,
            MLFLOW_TRACKING_URI=store, TF_NUM_INTRAOP_THREADS=recorded.tags["threads"],
            **{start_from.STORE: connection.uri()},
        )  # fmt: skip
        record = json.loads((project / paths.TRAIN / paths.RUN).read_text())
        repeated = runs.record_of(record["run_id"], store)
    return compare(recorded, repeated)


def check_out(commit: str, clone: Path) -> Path:
    """Clone the repository, which may have the project in a subfolder; return its new folder."""
    asked = ["git", "rev-parse", "--show-toplevel", "--show-prefix"]
    answer = subprocess.run(asked, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise InputError(f"`{' '.join(asked)}` failed; its message is above.")
    repository, subfolder = answer.stdout.split("\n")[:2]
    command("git", "clone", "--quiet", "--no-checkout", repository, str(clone))
    command("git", "checkout", "--quiet", commit, cwd=clone)
    return clone / subfolder


def compare(recorded: "Record", repeated: "Record") -> bool:
    """Print what is equal in two runs and what differs; return whether everything is equal.

    What depends on the machine, such as times and the use of the processors, is not compared.
    """
    from image_classifier.tracking.runs import OF_THE_MACHINE

    digests = [record.tags.get("weights_sha256", "none") for record in (recorded, repeated)]
    print(f"weights  {'equal' if digests[0] == digests[1] else 'DIFFERENT'}  {digests[0][:16]}")
    not_repeated = (*OF_THE_MACHINE, "fit_seconds")
    names = [name for name in recorded.metrics if not name.startswith(not_repeated)]
    different = [name for name in names if recorded.metrics[name] != repeated.metrics.get(name)]
    for name in different:
        print(f"{name}  DIFFERENT  {recorded.metrics[name]}, now {repeated.metrics.get(name)}")
    print(f"metrics  {len(names) - len(different)} of {len(names)} equal to the last bit")
    return digests[0] == digests[1] and not different


def warnings(tags: dict[str, str]) -> list[str]:
    """Return the reasons why a run may not repeat to the last bit, as sentences."""
    from image_classifier.tracking import runs
    from image_classifier.training import devices

    found = []
    if tags.get("git.uncommitted_changes") == "true":
        found.append("the run was made with uncommitted changes, which are not recorded")
    now = runs.provenance() | {"device": devices.describe()}
    if tags.get("sha256.requirements.lock") != now.get("sha256.requirements.lock"):
        found.append(
            "the versions of the packages may differ: requirements.lock has changed since the run"
        )
    if tags.get("device") != now["device"]:
        found.append(
            f"the device differs: the run used {tags.get('device')}, this machine has "
            f"{now['device']}"
        )
    return found


def share_cache(project: Path) -> None:
    """Let the copy use the cache of this project, for a dataset that DVC tracks."""
    cache = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=True)
    command("dvc", "cache", "dir", "--local", cache.stdout.strip(), cwd=project)
    if not (project / "data").exists():
        command("dvc", "checkout", "data.dvc", cwd=project)


def command(*words: str, cwd: Path | None = None, **environment: str) -> None:
    """Run a command; raise an InputError if it fails."""
    if subprocess.run(words, cwd=cwd, env=os.environ | environment).returncode:
        raise InputError(f"`{' '.join(words)}` failed; its message is above.")
