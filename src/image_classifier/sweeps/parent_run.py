"""The MLflow run of a sweep: its jobs are its children, and it names the best of them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlflow
from mlflow.entities import Run, ViewType

from image_classifier.config.schema import Tracking, sign_of
from image_classifier.project import paths
from image_classifier.project.processes import this_process
from image_classifier.project.text import counted
from image_classifier.sweeps import results
from image_classifier.tracking import connection, registry, runs
from image_classifier.tracking.runs import SWEEP_VARIABLE


@dataclass(frozen=True)
class BestJob:
    """The best job of a sweep.

    `value` is its value of the sweep's metric; `version` is a models:/ address, or empty.
    """

    name: str
    run_id: str
    value: float
    version: str
    overrides: list[str]


@dataclass
class SweepResult:
    """How a sweep ended.

    Attributes:
        metric: The metric that compares the jobs.
        finished: The number of finished jobs, without those that were pruned.
        pruned: The number of jobs that were stopped early because others are better.
        running: The number of jobs that run on other machines.
        failed: The overrides of the other jobs, with the error.
        costs: Sums over the finished jobs: `train_seconds`, `cpu_seconds`, `stored_bytes`.
        best: The best job, or None when no job finished.
        spread: How much its result varies over folds and seeds, or empty.
        verdict: Whether it beats the others beyond chance, or empty.
    """

    metric: str
    finished: int
    pruned: int
    running: int
    failed: dict[str, str]
    costs: dict[str, float] = field(default_factory=dict)
    best: BestJob | None = None
    spread: str = ""
    verdict: str = ""

    @property
    def counts(self) -> str:
        """How many jobs ended how."""
        text = f"{self.finished} jobs finished, {len(self.failed)} failed"
        if self.pruned:
            text += f", {self.pruned} pruned"
        return text + (f", {self.running} running on other machines" if self.running else "")


def start(
    experiment_name: str, key: str, overrides: Sequence[str], space: Sequence[str]
) -> tuple[str, int]:
    """Open the parent run of a sweep: a new run, or the one that the same command began earlier.

    Args:
        experiment_name: The MLflow experiment.
        key: Identifies the sweep: its command, settings and data.
        overrides: The command's overrides.
        space: The search space, one line for each setting.

    Returns:
        The run's id, and the number of its jobs that are finished already.

    Raises:
        InputError: the experiment, or the run that `mlflow run` made, was deleted.
    """
    experiment = connection.experiment_id(experiment_name)
    runs.close_ended()
    client = mlflow.MlflowClient()
    given = os.environ.pop("MLFLOW_RUN_ID", None)  # set by `mlflow run`: the jobs must not use it
    if (parent := oldest(experiment, key)) and not given:
        runs.open_again(client.get_run(parent))
        if deleted := deleted_jobs(parent):
            print(f"Deleted in MLflow: {counted(len(deleted), 'job')} of this sweep.")
        return parent, len(finished(parent))
    if given:
        runs.find(given, to_write=True)
    elif before := oldest(experiment, key, ViewType.DELETED_ONLY):
        print(
            f"The run of this sweep was deleted, so it begins again. To continue it instead, end "
            f"this command: `mlflow runs restore --run-id {before}`."
        )
    tags = {"sweep_key": key, runs.PROCESS: this_process(), **runs.origin()}
    parent = str(given or client.create_run(experiment, tags=tags).info.run_id)
    first = oldest(experiment, key)
    if first and first != parent and not given:  # another machine began the sweep at this moment
        client.delete_run(parent)
        return first, 0
    tags |= {
        "mlflow.runName": runs.short("sweep " + " ".join(overrides)),
        "search_space": runs.cut("\n".join(space)),
        **runs.provenance(),
    }
    for name, value in tags.items():
        client.set_tag(parent, name, value)
    return parent, 0


def oldest(experiment: str, key: str, view: int = ViewType.ACTIVE_ONLY) -> str | None:
    """Return the run of the sweep with a key that began first, or None.

    Args:
        experiment: The id of the experiment.
        key: See `start`.
        view: Whether deleted runs are searched.
    """
    found = mlflow.MlflowClient().search_runs(
        [experiment],
        f"tags.sweep_key = '{key}'",
        run_view_type=view,
        order_by=["attributes.start_time", "attributes.run_id"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None


def current() -> str | None:
    """Return the run id of the sweep that this process works for, or None."""
    return os.environ.get(SWEEP_VARIABLE)


def children(parent: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Return the runs of a sweep's jobs, including those that failed or were killed."""
    experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    found: list[Run] = mlflow.search_runs(
        [experiment], query, run_view_type=view, output_format="list"
    )
    return found


def deleted_jobs(parent: str) -> list[Run]:
    """Return the runs of a sweep's jobs that somebody deleted in MLflow."""
    return children(parent, ViewType.DELETED_ONLY)


def finished(parent: str) -> list[Run]:
    """Return the finished jobs of a sweep, each once, also those that were pruned."""
    done = [child for child in children(parent) if child.info.status == "FINISHED"]
    return list({child.data.tags["job_key"]: child for child in done}.values())


def complete(jobs: Sequence[Run]) -> list[Run]:
    """Return the finished jobs that were not pruned."""
    return [job for job in jobs if runs.PRUNED not in job.data.tags]


def finished_value(job_key: str, monitor: str) -> float | None:
    """Return the best value of `monitor` of a job that the sweep finished before, or None."""
    parent = current()
    if parent is None:
        return None
    done = find(job_key, f"AND tags.`mlflow.parentRunId` = '{parent}'")
    return float(done[0].data.metrics[f"best_{monitor}"]) if done else None


def reuse(
    job_key: str, monitor: str, overrides: Sequence[str], tracking: Tracking
) -> tuple[str, float] | None:
    """Make an equal training that finished elsewhere a job of this sweep, if there is one.

    A pruned training is none: why it was stopped depends on the other jobs of its sweep. Nor is one
    whose model is wanted, but was not stored or is deleted.

    Args:
        job_key: Identifies the job; see `training.identity`.
        monitor: The metric that compares the jobs.
        overrides: The overrides of the job.
        tracking: Says whether its model is wanted.

    Returns:
        The id of the other training's run, and its best value of `monitor`; or None.
    """
    parent = current()
    if parent is None:
        return None
    for run in find(job_key):
        tags, value = run.data.tags, run.data.metrics.get(f"best_{monitor}")
        if runs.PRUNED in tags or value is None or not registry.is_kept(tags, tracking):
            continue
        original = tags.get(runs.REUSED, run.info.run_id)
        if not runs.exists(original):
            continue
        if run.data.params["training.fold"] != "None" and not runs.has_predictions(original):
            continue
        runs.copy_training(original, parent, overrides)
        return original, float(value)
    return None


def is_best_of_a_sweep(job: Run) -> bool:
    """Return whether a job is the best one of any sweep: of another one, it may be a copy."""
    client = mlflow.MlflowClient()
    query = f"tags.`best.run_id` = '{job.info.run_id}'"
    return bool(client.search_runs([job.info.experiment_id], query, max_results=1))


def find(job_key: str, condition: str = "") -> list[Run]:
    """Return the finished trainings with a key, the oldest first."""
    parent = current()
    assert parent
    connection.connect()
    client = mlflow.MlflowClient()
    found: list[Run] = client.search_runs(
        [client.get_run(parent).info.experiment_id],
        f"attributes.status = 'FINISHED' AND tags.job_key = '{job_key}' {condition}",
        order_by=["attributes.start_time"],
    )
    return found


def record_failure(overrides: Sequence[str], error: Exception) -> None:
    """Create a failed run for a job that raised before it had a run."""
    connection.connect()
    parent = current()
    if parent is None or any(
        child.info.status == "FAILED" and runs.overrides_of(child) == list(overrides)
        for child in children(parent)
    ):
        return
    client = mlflow.MlflowClient()
    tags = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": runs.short(" ".join(overrides)),
        **runs.overrides_tags(overrides),
        "error": connection.describe(error),
    }
    run = client.create_run(client.get_run(parent).info.experiment_id, tags=tags)
    client.set_terminated(run.info.run_id, "FAILED")


def update_leader(monitor: str) -> None:
    """Log the best result so far to the sweep's run, so that the MLflow UI shows it live."""
    if parent := current():
        done = finished(parent)
        values = [child.data.metrics[f"best_{monitor}"] for child in done]
        best = min(values, key=lambda value: sign_of(monitor) * value)
        client = mlflow.MlflowClient()
        client.log_metric(parent, f"best_{monitor}", best, step=len(done))
        client.log_metric(parent, "jobs_finished", len(done), step=len(done))


def best_so_far_curves(monitor: str) -> list[list[float]]:
    """Return for each finished job of the sweep its best value so far, after every epoch."""
    client, parent = mlflow.MlflowClient(), current()
    curves = []
    for child in finished(parent) if parent else []:
        history = client.get_metric_history(child.info.run_id, f"best_{monitor}")
        history.sort(key=lambda metric: (metric.step, metric.timestamp))
        curves.append([metric.value for metric in history])
    return curves


def finish(parent: str, tracking: Tracking, folder: Path) -> SweepResult:
    """Close a sweep's parent run: log its best job, a table, a plot and the costs.

    Args:
        parent: The run's id.
        tracking: Whether the best model is registered now, and under which name.
        folder: Where the table and the plot are written.
    """
    connection.connect()
    client = mlflow.MlflowClient()
    for job in children(parent):
        launched_here = job.data.tags.get(runs.SWEEP_PROCESS) == this_process()
        if launched_here and job.info.status == "RUNNING":  # all jobs have ended, this one badly
            client.set_terminated(job.info.run_id, "KILLED")
    jobs, done = children(parent), finished(parent)
    done_words = [runs.overrides_of(child) for child in done]
    running = [child for child in jobs if child.info.status == "RUNNING"]
    failed = {
        " ".join(runs.overrides_of(child)): child.data.tags.get("error", "killed")
        for child in jobs
        if child.info.status not in ("FINISHED", "RUNNING")
        and runs.overrides_of(child) not in done_words
    }
    monitors = {child.data.params["training.monitor"] for child in done}
    monitor = monitors.pop() if len(monitors) == 1 else "val_accuracy"
    candidates = complete(done)
    result = SweepResult(
        f"best_{monitor}", len(candidates), len(done) - len(candidates), len(running), failed
    )
    result.costs = {
        name: sum(child.data.metrics.get(name, 0) for child in done) for name in results.COSTS
    }
    if tracking.register_models == "none":
        result.costs["stored_bytes"] = 0
    for name, value in result.costs.items():
        client.log_metric(parent, f"sum_{name}", value)
    client.log_metric(parent, "jobs_finished", len(done), step=len(done))
    client.log_metric(parent, "jobs_failed", len(failed))
    client.log_metric(parent, "jobs_pruned", result.pruned)
    if candidates:
        ranked = results.recipes(candidates, result.metric)
        sign = sign_of(result.metric)
        child = min(ranked[0].jobs, key=lambda child: sign * child.data.metrics[result.metric])
        result.best = best_job(child, result.metric, tracking)
        for key, value in asdict(result.best).items():
            client.set_tag(parent, f"best.{key}", runs.cut(str(value)))
        done.sort(key=lambda child: child.info.start_time)
        files = results.write(done, candidates, result.metric, folder)
        predictions = folder / paths.OUT_OF_FOLD
        if pooled := results.write_out_of_fold(ranked, predictions):
            files.append(predictions)
        result.verdict = results.verdict(ranked, result.metric)
        if len(ranked[0].jobs) > 1:
            result.spread = str(ranked[0].spread)
            results.log_spread(parent, ranked[0], result.metric)
        client.set_tag(parent, "mlflow.note.content", page(result, ranked, pooled))
        for file in files:
            client.log_artifact(parent, str(file), "sweep")
    if not running:  # otherwise another machine closes it
        client.set_terminated(parent, "FAILED" if failed or not candidates else "FINISHED")
    return result


def page(result: SweepResult, ranked: Sequence[results.Recipe], pooled: Mapping[str, str]) -> str:
    """Return the text of the sweep's page in the MLflow UI."""
    assert result.best
    better = "lower" if sign_of(result.metric) == 1 else "higher"
    parts = [
        f"**{result.counts}.** Compared by `{result.metric}` ({better} is better), measured on the "
        f"validation images that also chose the best epoch.",
        f"Best job: `{result.best.name}`, {result.best.value:.4f}, "
        f"{result.best.version or 'not registered'}. Its run: `{result.best.run_id}`.",
        results.table(ranked, pooled, result.metric),
        result.verdict,
        f"Plots, `results.csv`{' and `out_of_fold.csv`' * bool(pooled)}: artifacts, `sweep`.",
    ]
    return runs.cut(runs.note("\n\n".join(filter(None, parts))))


def best_job(child: Run, metric: str, tracking: Tracking) -> BestJob:
    """Return the best job; register its model, if only the best one is to be registered."""
    version = child.data.tags.get("registered_version", "")
    run_id = child.data.tags.get(runs.REUSED, child.info.run_id)
    if tracking.register_models == "best" and not version:
        version = registry.register_stored(
            child.data.tags["stored_model"],
            tracking.registered_model,
            run_id,
            json.loads(child.data.tags["version_tags"]),
        ).uri
    return BestJob(
        name=child.info.run_name,
        run_id=run_id,
        value=child.data.metrics[metric],
        version=version,
        overrides=runs.overrides_of(child),
    )
