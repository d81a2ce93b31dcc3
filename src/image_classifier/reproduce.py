"""reproduce: repeats an MLflow run from what the run recorded, and compares the two.

    python -m image_classifier.reproduce RUN_ID

The run's commit is checked out beside, its settings are put in params.yaml, and the pipeline runs
there from the beginning with as many threads, into a store of its own. Weights and metrics are
compared to the last bit; the exit code is 1 where anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier import paths
from image_classifier.command_line import explain
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.tracking.runs import Record

NOT_REPEATED = ("fit_seconds", "train_seconds", "cpu_seconds", "stored_bytes")


def reproduce(run_id: str) -> bool:
    """Repeat a run and print the comparison; return whether all is equal.

    Raises:
        InputError: the run is not there, lacks what is needed, or its pipeline fails.
    """
    from image_classifier.tracking import runs  # imports MLflow

    recorded = runs.record_of(run_id)
    commit = recorded.tags.get("dvc.exp_baseline_rev") or recorded.tags.get("git.commit")
    if not commit or not recorded.settings:
        raise InputError(f"run {run_id} has no commit or no config/params.yaml: not a training?")
    for warning in warnings(recorded.tags):
        print(f"Note: {warning}.")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        command("git", "clone", "--quiet", "--no-checkout", str(Path.cwd()), str(project))
        command("git", "checkout", "--quiet", commit, cwd=project)
        (project / "params.yaml").write_text(recorded.settings)
        share_cache(project)
        store = f"sqlite:///{project / 'mlflow.db'}"
        stage = "evaluate" if "test_accuracy" in recorded.metrics else "train"
        print(f"Repeating run {run_id}: commit {commit[:12]}, {recorded.tags['threads']} threads.")
        command(
            "dvc", "repro", "--force", "--no-run-cache", stage, cwd=project,
            MLFLOW_TRACKING_URI=store, TF_NUM_INTRAOP_THREADS=recorded.tags["threads"],
        )  # fmt: skip
        run = json.loads((project / paths.TRAIN / paths.RUN).read_text())
        repeated = runs.record_of(run["run_id"], store)
    return compare(recorded, repeated)


def compare(recorded: "Record", repeated: "Record") -> bool:
    """Print what two runs have in common and what not; return whether they are equal."""
    digests = [record.tags.get("weights_sha256", "none") for record in (recorded, repeated)]
    print(f"weights  {'equal' if digests[0] == digests[1] else 'DIFFERENT'}  {digests[0][:16]}")
    names = [name for name in recorded.metrics if name not in NOT_REPEATED]
    different = [name for name in names if recorded.metrics[name] != repeated.metrics.get(name)]
    for name in different:
        print(f"{name}  DIFFERENT  {recorded.metrics[name]}, now {repeated.metrics.get(name)}")
    print(f"metrics  {len(names) - len(different)} of {len(names)} equal to the last bit")
    return digests[0] == digests[1] and not different


def warnings(tags: dict[str, str]) -> list[str]:
    """Return what may keep a run from repeating to the last bit, as sentences."""
    from image_classifier.tracking import runs
    from image_classifier.training import devices

    found = []
    if tags.get("git.uncommitted_changes") == "true":
        found.append("the run was made with uncommitted changes; only its settings are recorded")
    now = runs.provenance() | {"device": devices.describe()}
    for key, what in (("sha256.requirements.lock", "packages"), ("device", "device")):
        if tags.get(key) != now.get(key):
            found.append(f"the {what} were {tags.get(key)}, here {now.get(key)}")
    return found


def share_cache(project: Path) -> None:
    """Let the copy take a dataset that DVC tracks from this project's cache."""
    cache = Path(".dvc/cache").resolve()
    (project / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    if not (project / "data").exists():
        command("dvc", "checkout", "data.dvc", cwd=project)


def command(*words: str, cwd: Path | None = None, **environment: str) -> None:
    """Run a command; raise an InputError where it fails."""
    if subprocess.run(words, cwd=cwd, env=os.environ | environment).returncode:
        raise InputError(f"`{' '.join(words)}` failed, see above.")


def main() -> None:
    """Run the command line; exit 1 where the repeat differs."""
    parser = argparse.ArgumentParser(
        prog="reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_id", help="the MLflow run to repeat")
    try:
        equal = reproduce(parser.parse_args().run_id)
    except (InputError, OSError) as error:
        sys.exit(f"reproduce: {explain(error)}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
