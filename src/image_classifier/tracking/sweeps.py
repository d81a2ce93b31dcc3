"""A sweep in MLflow: a parent run, its jobs as children, and which of them are done."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from image_classifier import plots
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.schema import Config, Tracking
from image_classifier.tracking import connection, registry, runs
from image_classifier.tracking.runs import SWEEP_VARIABLE

COSTS = ("train_seconds", "cpu_seconds", "stored_bytes")


@dataclass(frozen=True)
class BestJob:
    """The best job of a sweep; `value` is of the sweep's metric, `version` a models:/ address."""

    name: str
    run_id: str
    value: float
    version: str
    overrides: list[str]


@dataclass
class SweepResult:
    """How a sweep ended.

    Attributes:
        metric: By which the jobs compare.
        finished: How many jobs are done.
        failed: The overrides of those that are not, with the error.
        costs: Sums over the finished jobs: `train_seconds`, `cpu_seconds`, `stored_bytes`.
        best: The best job, if there is one.
    """

    metric: str
    finished: int
    failed: dict[str, str]
    costs: dict[str, float] = field(default_factory=dict)
    best: BestJob | None = None


def start(
    experiment_name: str, key: str, overrides: Sequence[str], space: Sequence[str]
) -> tuple[str, int]:
    """Open the parent run of a sweep, or open again the one that was left unfinished.

    Args:
        experiment_name: Where the runs go.
        key: The same for the same command on the same settings and data.
        overrides: The command's.
        space: What is searched, a line for each hyperparameter.

    Returns:
        The run's id, and how many of its jobs are finished already.
    """
    experiment = connection.experiment_id(experiment_name)
    client = mlflow.MlflowClient()
    left = client.search_runs(
        [experiment],
        f"tags.sweep_key = '{key}' AND attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    given = os.environ.pop("MLFLOW_RUN_ID", None)  # of `mlflow run`: no job is to take it
    if left and not given:
        parent = left[0].info.run_id
        client.update_run(parent, "RUNNING")
        for child in children(parent):
            if child.info.status == "RUNNING":  # its process died
                client.set_terminated(child.info.run_id, "KILLED")
        return parent, len(finished(parent))
    parent = given or client.create_run(experiment).info.run_id
    tags = {
        "mlflow.runName": runs.short("sweep " + " ".join(overrides)),
        "sweep_key": key,
        "search_space": "\n".join(space)[:5000],
        **runs.provenance(),
    }
    for name, value in tags.items():
        client.set_tag(parent, name, value)
    return str(parent), 0


def current() -> str | None:
    """Return the run id of the sweep that this process works for, if it does."""
    return os.environ.get(SWEEP_VARIABLE)


def children(parent: str) -> list[Run]:
    """Return the runs of a sweep's jobs, those that failed or died among them."""
    experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    found: list[Run] = mlflow.search_runs([experiment], query, output_format="list")
    return found


def finished(parent: str) -> list[Run]:
    """Return the finished jobs of a sweep, each once."""
    done = [child for child in children(parent) if child.info.status == "FINISHED"]
    return list({child.data.tags["job_key"]: child for child in done}.values())


def finished_value(config: Config, dataset: PreparedDataset) -> float | None:
    """Return the result of a job that the sweep finished before, or None."""
    if (parent := current()) is None:
        return None
    connection.connect()
    client = mlflow.MlflowClient()
    done = client.search_runs(
        [client.get_run(parent).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'FINISHED' "
        f"AND tags.job_key = '{runs.job_key(config, dataset)}'",
        max_results=1,
    )
    return float(done[0].data.metrics[f"best_{config.training.monitor}"]) if done else None


def record_failure(overrides: Sequence[str], error: Exception) -> None:
    """See that a failed job has a run with its error, be it one that never came to train."""
    connection.connect()
    parent, text = current(), json.dumps(list(overrides))
    if parent is None or any(
        child.data.tags.get("overrides") == text and child.info.status == "FAILED"
        for child in children(parent)
    ):
        return
    client = mlflow.MlflowClient()
    tags = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": runs.short(" ".join(overrides)),
        "overrides": text,
        "error": connection.explain(error),
    }
    run = client.create_run(client.get_run(parent).info.experiment_id, tags=tags)
    client.set_terminated(run.info.run_id, "FAILED")


def update_leader(monitor: str) -> None:
    """Log the best result so far to the sweep's run, so that the UI shows it live."""
    if parent := current():
        done = finished(parent)
        values = [child.data.metrics[f"best_{monitor}"] for child in done]
        best = min(values) if monitor == "val_loss" else max(values)
        client = mlflow.MlflowClient()
        client.log_metric(parent, f"best_{monitor}", best, step=len(done))
        client.log_metric(parent, "jobs_finished", len(done), step=len(done))


def best_so_far_curves(monitor: str) -> list[list[float]]:
    """Return for each finished job of the sweep its best value so far, epoch by epoch."""
    client, parent = mlflow.MlflowClient(), current()
    curves = []
    for child in finished(parent) if parent else []:
        history = client.get_metric_history(child.info.run_id, f"best_{monitor}")
        history.sort(key=lambda metric: (metric.step, metric.timestamp))
        curves.append([metric.value for metric in history])
    return curves


def finish(parent: str, tracking_settings: Tracking, folder: Path) -> SweepResult:
    """Close a sweep's parent run: name its best child on it, and log table, picture and costs.

    Args:
        parent: The run's id.
        tracking_settings: Say whether the best model is registered only now, and under what name.
        folder: Where table and picture are written first.
    """
    connection.connect()
    client = mlflow.MlflowClient()
    done = finished(parent)
    done_overrides = {child.data.tags["overrides"] for child in done}
    failed = {
        " ".join(json.loads(child.data.tags["overrides"])): child.data.tags.get("error", "died")
        for child in children(parent)
        if child.info.status != "FINISHED" and child.data.tags["overrides"] not in done_overrides
    }
    monitors = {child.data.params["training.monitor"] for child in done}
    monitor = monitors.pop() if len(monitors) == 1 else "val_accuracy"
    result = SweepResult(f"best_{monitor}", len(done), failed)
    result.costs = {name: sum(child.data.metrics.get(name, 0) for child in done) for name in COSTS}
    for name, value in result.costs.items():
        client.log_metric(parent, f"sum_{name}", value)
    client.log_metric(parent, "jobs_finished", len(done), step=len(done))
    client.log_metric(parent, "jobs_failed", len(failed))
    if done:
        sign = 1 if monitor == "val_loss" else -1
        child = min(done, key=lambda child: rank(child.data.metrics, result.metric, sign))
        result.best = best_job(child, result.metric, tracking_settings)
        for key, value in asdict(result.best).items():
            client.set_tag(parent, f"best.{key}", value)
        for file in write_results(done, result.metric, folder):
            client.log_artifact(parent, str(file), "sweep")
    client.set_terminated(parent, "FAILED" if failed or not done else "FINISHED")
    return result


def rank(metrics: Mapping[str, float], metric: str, sign: int) -> tuple[float, float]:
    """Return what orders jobs, the best one first: equal accuracies are told apart by the loss."""
    return sign * metrics[metric], metrics["best_val_loss"]


def best_job(child: Run, metric: str, settings: Tracking) -> BestJob:
    """Return the best job; its model is registered now where that was put off."""
    version = child.data.tags.get("registered_version", "")
    if settings.register_models == "best" and not version:
        version = registry.register_stored(
            child.data.tags["stored_model"],
            settings.registered_model,
            child.info.run_id,
            json.loads(child.data.tags["version_tags"]),
        ).uri
    return BestJob(
        name=child.info.run_name,
        run_id=child.info.run_id,
        value=child.data.metrics[metric],
        version=version,
        overrides=json.loads(child.data.tags["overrides"]),
    )


def write_results(done: Sequence[Run], metric: str, folder: Path) -> list[Path]:
    """Write a table of the jobs, and a picture of the metric over what varies; return the files."""
    names = sorted({name for child in done for name in child.data.params if "." in name})
    varied = [name for name in names if len({child.data.params.get(name) for child in done}) > 1]
    rows: list[dict[str, Any]] = [
        {"run": child.info.run_name}
        | {name: child.data.params.get(name, "") for name in varied}
        | {name: child.data.metrics.get(name, "") for name in (metric, *COSTS)}
        for child in done
    ]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "results.csv"]
    with files[0].open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if varied:
        columns = {name: [str(row[name]) for row in rows] for name in varied}
        files.append(folder / "results.png")
        plots.sweep_slices(columns, [row[metric] for row in rows], metric, files[1])
    return files


def abandon(parent: str) -> None:
    """Close the parent run as failed."""
    mlflow.MlflowClient().set_terminated(parent, "FAILED")


def delete_losers(parent: str) -> tuple[int, float]:
    """Delete the models of a sweep's jobs but the best; return how many, and their bytes.

    Raises:
        InputError: the run is no sweep that ended.
    """
    connection.connect()
    client = mlflow.MlflowClient()
    try:
        best = client.get_run(parent).data.tags["best.run_id"]
    except (MlflowException, KeyError):
        raise InputError(f"{parent} is no sweep with a best job.") from None
    number, size = 0, 0.0
    for child in children(parent):
        if child.info.run_id == best:
            continue
        versions = client.search_model_versions(f"run_id = '{child.info.run_id}'")
        registered = [client.get_model_version(found.name, found.version) for found in versions]
        if any(version.aliases for version in registered):
            continue
        for version in registered:
            client.delete_model_version(version.name, version.version)
        experiment, run_id = child.info.experiment_id, child.info.run_id
        for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            get_artifact_repository(model.artifact_location).delete_artifacts()
            client.delete_logged_model(model.model_id)
            number += 1
            size += child.data.metrics.get("stored_bytes", 0)
    return number, size
