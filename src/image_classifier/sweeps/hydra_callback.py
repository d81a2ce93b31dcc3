"""The Hydra callback that opens the MLflow run of a sweep first, and closes it last."""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from image_classifier.config.compose import compose
from image_classifier.config.messages import as_hydra_text, explain_composition
from image_classifier.config.schema import Tracking
from image_classifier.data.manifest import manifest_digest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.processes import this_process
from image_classifier.sweeps import launchers

if TYPE_CHECKING:
    from image_classifier.sweeps.parent_run import SweepResult

# a sweep trains: what it may vary are the settings of the training
OTHER_SECTIONS = {
    **dict.fromkeys(("dataset", "external", "split", "image"), "changes the prepared images"),
    **dict.fromkeys(("evaluation", "promotion", "serving"), "trains the same model again"),
}


class SweepCallback(Callback):
    """Called by Hydra: see conf/config.yaml. It ends by `sys.exit`, as Hydra ignores exceptions."""

    # attributes of the class: launchers send the object to the jobs
    parent: str | None = None
    lock: FileLock | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what a sweep cannot vary, and open the parent run."""
        try:
            self.open(config)
        except InputError as error:
            sys.exit(f"train: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(f"train: {explain_composition(error, sys.argv[1:])}")
        except Exception as error:  # otherwise the jobs would run without a sweep
            sys.exit(f"train: the run of the sweep cannot be opened in MLflow: {error}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent run; print the best job; exit with 1 if a job failed."""
        try:
            result = self.close(config)
        except Exception as error:
            sys.exit(
                f"train: the jobs have ended, but the run of the sweep cannot be closed in MLflow: "
                f"{error}"
            )
        if result.failed or not result.best:
            sys.exit(1)

    def open(self, config: DictConfig) -> None:
        """Open the parent run, and pass its id to the jobs."""
        overrides, sweeper = list(config.hydra.overrides.task), config.hydra.sweeper
        space = search_space(config)
        for name in sorted(sweeper.get("params") or {}):
            if any(is_fixed(word) and word.startswith(f"{name}=") for word in overrides):
                print(f"{name} is set on the command line: the search does not vary it.")
        refuse_other_sections(space)
        compose([first_value(word) for word in space])  # a wrong name or value of Hydra raises here
        launchers.check(config.hydra.launcher)
        key = sweep_key(config)
        SweepCallback.lock = lock_or_exit(key)
        if "n_trials" in sweeper:
            from image_classifier.sweeps import study  # imports Optuna

            opened = study.open_study(key, config.training.monitor, sweeper)
            if begun := study.describe(opened, sweeper.n_trials):
                print(begun)
        from image_classifier.sweeps import parent_run  # imports MLflow
        from image_classifier.tracking import connection, runs

        parent, done = parent_run.start(config.tracking.experiment, key, overrides, space)
        SweepCallback.parent = parent
        if done:
            print(f"Continuing sweep {parent}: {done} of its jobs are finished already.")
        variables = {runs.SWEEP_VARIABLE: parent, runs.PROCESS_VARIABLE: this_process()}
        if (
            "@" not in connection.uri()
        ):  # not if it contains a password, which Hydra would write to its files
            # jobs on other machines know neither this environment nor this folder
            variables["MLFLOW_TRACKING_URI"] = connection.uri()
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra += [
                f"+hydra.job.env_set.{name}={as_hydra_text(value)}"
                for name, value in variables.items()
            ]

    def close(self, config: DictConfig) -> "SweepResult":
        """Close the parent run, and print how the sweep ended."""
        from image_classifier.sweeps import parent_run

        tracking = Tracking(**config.tracking)
        assert SweepCallback.parent
        assert SweepCallback.lock
        result = parent_run.finish(SweepCallback.parent, tracking, Path(config.hydra.sweep.dir))
        SweepCallback.lock.release()
        print(describe(SweepCallback.parent, result, "n_trials" in config.hydra.sweeper))
        SweepCallback.parent = None
        return result


def describe(parent: str, result: "SweepResult", is_search: bool) -> str:
    """Return how a sweep ended: failed jobs, costs, the best job, and how to adopt it."""
    lines = [f"\nSweep {parent}: {result.counts}."]
    lines += [f"  failed: {job} ({error})" for job, error in result.failed.items()]
    costs = result.costs
    lines.append(
        f"Cost: {costs['train_seconds']:.0f} s of jobs, {costs['cpu_seconds']:.0f} s of CPU, "
        f"{costs['stored_bytes'] / 1e6:.1f} MB stored."
    )
    if result.best:
        lines.append(
            f"Best: {result.best.name}, {result.metric} {result.best.value:.4f}, "
            f"{result.best.version or 'not registered'}\nTo make its settings the defaults:\n"
            f"  image-classifier adopt {result.best.run_id} NAME"
        )
    if result.spread:
        lines.append(f"Mean of these settings: {result.metric} {result.spread}")
    if result.verdict:
        first, *others = result.verdict.replace("`", "").split("\n\n")
        lines.append(first)
        if others:
            lines.append("The other comparisons are on the page of the sweep in MLflow.")
    if result.failed and not is_search:
        lines.append("Run the same command again to run only the jobs that are not finished.")
    return "\n".join(lines)


def searched_by_file(config: DictConfig) -> dict[str, str]:
    """Return the settings that a file of conf/search varies, unless the command sets them."""
    given = {word.partition("=")[0].lstrip("+") for word in config.hydra.overrides.task}
    params = config.hydra.sweeper.get("params") or {}
    return {name: values for name, values in params.items() if name not in given}


def search_space(config: DictConfig) -> list[str]:
    """Return what a sweep varies and fixes, as overrides."""
    searched = [f"{name}={values}" for name, values in searched_by_file(config).items()]
    return [*config.hydra.overrides.task, *searched]


def sweep_key(config: DictConfig) -> str:
    """Return what identifies a sweep: a digest of its command, its settings and its data.

    The number of trials of a search, and where its study is stored, are not part of it.
    """
    settings = OmegaConf.to_container(config)
    assert isinstance(settings, dict)
    sweeper = settings.pop("hydra")["sweeper"]
    other = ("n_trials", "n_jobs", "storage", "max_batch_size", "params")
    sweeper = {name: value for name, value in sweeper.items() if name not in other}
    data = manifest_digest() if paths.MANIFEST.is_file() else ""
    text = json.dumps([sorted(search_space(config)), sweeper, settings, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lock_or_exit(key: str) -> FileLock:
    """Return the lock of a sweep; exit if the same sweep is running already."""
    Path("runs").mkdir(exist_ok=True)
    lock = FileLock(f"runs/sweep-{key[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.exit("train: the same sweep is already running in this folder. Wait for it, or end it.")
    return lock


def is_fixed(word: str) -> bool:
    """Return whether an override has a single value."""
    return not OverridesParser.create().parse_override(word).is_sweep_override()


def first_value(word: str) -> str:
    """Return an override with the first of the values that a sweep gives it."""
    override = OverridesParser.create().parse_override(word)
    values = override.value()
    if isinstance(values, IntervalSweep):
        return f"{override.get_key_element()}={values.start}"
    if override.is_sweep_override():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return word


def refuse_other_sections(overrides: list[str]) -> None:
    """Exit with a message if a sweep varies a setting that is not one of the training."""
    for override in OverridesParser.create().parse_overrides(overrides):
        section = override.key_or_group.split(".")[0]
        if override.is_sweep_override() and section in ("launch", "search"):  # Hydra ignores them
            sys.exit(
                f"train: {override.input_line}: a sweep has one {section}. Run one command for "
                f"each."
            )
        if override.is_sweep_override() and section in OTHER_SECTIONS:
            sys.exit(
                f"train: a sweep of {override.key_or_group} {OTHER_SECTIONS[section]}. Run the "
                f"whole pipeline instead: dvc exp run --queue -S '{override.input_line}', then "
                f"dvc exp run --run-all."
            )


def abandon(error: BaseException) -> None:
    """Close the run of this process's sweep, if there is one, with the error that ended it."""
    if SweepCallback.parent:
        from image_classifier.tracking import runs

        runs.close_failed(SweepCallback.parent, error)
