"""A Hydra sweep as one MLflow parent run: opened first, closed last with the best job named."""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from image_classifier import paths
from image_classifier.data.manifest import manifest_digest

if TYPE_CHECKING:
    from image_classifier.tracking.sweeps import SweepResult

DATA_SECTIONS = ("dataset", "external", "split", "image")


class SweepCallback(Callback):
    """Called by Hydra, see conf/config.yaml. It stops by `sys.exit`: Hydra swallows exceptions."""

    # of this process, not of the callback: launchers send that to the jobs
    parent: str | None = None
    lock: FileLock | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what a sweep cannot do, and open the parent run."""
        try:
            self.open(config)
        except Exception as error:  # or the jobs would run without a sweep
            sys.exit(f"train: the sweep cannot be opened in MLflow: {error}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent run; print the best job, and exit 1 where any job failed."""
        try:
            result = self.close(config)
        except Exception as error:
            sys.exit(f"train: the jobs ran, but the sweep cannot be closed in MLflow: {error}")
        if result.failed or not result.best:
            sys.exit(1)

    def open(self, config: DictConfig) -> None:
        """Open the parent run, and have its id told to the jobs."""
        overrides = list(config.hydra.overrides.task)
        searched = config.hydra.sweeper.get("params") or {}
        space = [*overrides, *(f"{name}={values}" for name, values in searched.items())]
        refuse_data_sweep(space)
        key = sweep_key(config, space)
        SweepCallback.lock = lock_or_exit(key)
        from image_classifier.tracking import connection, runs, sweeps  # imports MLflow

        parent, done = sweeps.start(config.tracking.experiment, key, overrides, space)
        SweepCallback.parent = parent
        if done:
            print(f"Sweep {parent} goes on: {done} of its jobs are finished already.")
        variables = {runs.SWEEP_VARIABLE: parent}
        if "@" not in connection.uri():  # a password in it would end up in Hydra's files
            # jobs on other machines see neither this environment nor this folder
            variables["MLFLOW_TRACKING_URI"] = connection.uri()
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra += [
                f"+hydra.job.env_set.{name}='{value}'" for name, value in variables.items()
            ]

    def close(self, config: DictConfig) -> "SweepResult":
        """Close the parent run, and print how the sweep ended."""
        from image_classifier.schema import Tracking
        from image_classifier.tracking import sweeps

        settings = Tracking(**config.tracking)
        assert SweepCallback.parent
        assert SweepCallback.lock
        result = sweeps.finish(SweepCallback.parent, settings, Path(config.hydra.sweep.dir))
        SweepCallback.lock.release()
        print(summary(SweepCallback.parent, result))
        SweepCallback.parent = None
        return result


def summary(parent: str, result: "SweepResult") -> str:
    """Return how a sweep ended: what failed, what it cost, the best job and how to adopt it."""
    lines = [f"\nSweep {parent}: {result.finished} jobs finished, {len(result.failed)} failed."]
    lines += [f"  failed: {job} ({error})" for job, error in result.failed.items()]
    costs = result.costs
    lines.append(
        f"Cost: {costs['train_seconds']:.0f} s of jobs, {costs['cpu_seconds']:.0f} s of CPU, "
        f"{costs['stored_bytes'] / 1e6:.1f} MB stored."
    )
    if result.best:
        lines.append(
            f"Best: {result.best.name}, {result.metric} {result.best.value:.4f}, "
            f"{result.best.version or 'not registered'}\nMake it the pipeline's:\n"
            f"  python -m image_classifier.adopt {result.best.run_id} NAME"
        )
    if result.failed:
        lines.append("The same command again runs only what is not finished.")
    return "\n".join(lines)


def sweep_key(config: DictConfig, space: list[str]) -> str:
    """Return a digest of a sweep's command, of the settings it starts from, and of the data."""
    settings = OmegaConf.to_container(config)
    assert isinstance(settings, dict)
    settings.pop("hydra")
    data = manifest_digest() if paths.MANIFEST.is_file() else ""
    text = json.dumps([sorted(space), settings, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lock_or_exit(key: str) -> FileLock:
    """Return the lock of a sweep; exit where the same one runs already."""
    Path("runs").mkdir(exist_ok=True)
    lock = FileLock(f"runs/sweep-{key[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.exit("train: the same sweep runs already in this folder. Wait for it, or end it first.")
    return lock


def refuse_data_sweep(overrides: list[str]) -> None:
    """Exit with a message where a sweep varies the data, which only the whole pipeline can."""
    for override in OverridesParser.create().parse_overrides(overrides):
        section = override.key_or_group.split(".")[0]
        if override.is_sweep_override() and section in DATA_SECTIONS:
            sys.exit(
                f"train: a sweep of {override.key_or_group} changes the prepared images, so it "
                f"needs the whole pipeline: dvc exp run --queue -S '{override.input_line}', then "
                f"dvc exp run --run-all."
            )


def abandon() -> None:
    """Close the sweep of this process as failed, if one is open."""
    if SweepCallback.parent:
        from image_classifier.tracking import sweeps

        sweeps.abandon(SweepCallback.parent)
