"""Runs in MLflow, and where they are kept; registry.py has the models, sweep_runs.py the sweeps."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import mlflow
from filelock import FileLock
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis
from omegaconf import OmegaConf

from image_classifier import paths
from image_classifier.config import flatten
from image_classifier.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.schema import Config

Result = TypeVar("Result")

SETTINGS_FILE = "config/params.yaml"
# a server that is gone is given up after a quarter of a minute; MLflow's own settings take minutes
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
SWEEP_VARIABLE = "IMAGE_CLASSIFIER_SWEEP"  # names the sweep's run to its jobs


@dataclass(frozen=True)
class Record:
    """What a run recorded: tags, each metric's last value at every step, and its settings."""

    tags: dict[str, str]
    metrics: dict[str, dict[int, float]]
    settings: str


def connect() -> None:
    """Point MLflow to MLFLOW_TRACKING_URI, else to mlflow.db in the project's folder."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    hide_password()
    mlflow.set_tracking_uri(uri())


def hide_password() -> None:
    """Move name and password out of the server's address, which MLflow prints after every run."""
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parts.scheme in ("http", "https") and parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        os.environ["MLFLOW_TRACKING_URI"] = public(parts.geturl())


def uri() -> str:
    """Return the address of the store that `connect` points to."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _local_store()


def experiment_id(name: str) -> str:
    """Return the id of the experiment, created if there is none yet."""
    connect()
    # Processes that start together on a fresh SQLite file all try to create its tables.
    with FileLock(paths.project() / "mlflow.db.lock"):
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        local = mlflow.get_tracking_uri() == _local_store()
        location = (paths.project() / "mlartifacts").as_uri() if local else None
        # so that the UI opens on training runs, not on its pages for language models
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=kind))


def open_training(
    config: Config,
    dataset: PreparedDataset,
    name: str,
    overrides: Sequence[str] = (),
    training_id: str = "",
) -> str:
    """Return the id of a training's MLflow run: a new one, or the one of an earlier attempt.

    Logs the hyperparameters, the dataset, and what is needed to tell and repeat the run.

    Args:
        config: All settings.
        dataset: The prepared images.
        name: The run's name.
        overrides: How the settings differ from conf/.
        training_id: By which the run of an earlier attempt is found.
    """
    experiment = experiment_id(config.tracking.experiment)
    client = mlflow.MlflowClient()
    parent = os.environ.get(SWEEP_VARIABLE)
    given = os.environ.get("MLFLOW_RUN_ID")  # `mlflow run` has made it, in an experiment it chose
    if parent or given:
        experiment = client.get_run(parent or given).info.experiment_id
    earlier = client.search_runs(
        [experiment], f"tags.training_id = '{training_id}'", max_results=1
    ) if training_id else []  # fmt: skip
    if earlier:
        run_id = earlier[0].info.run_id
        client.update_run(run_id, "RUNNING")
        if "error" in earlier[0].data.tags:
            client.delete_tag(run_id, "error")  # of the attempt that this one goes on from
    elif given:
        run_id = given
        client.update_run(run_id, name=short(name))
        client.set_tag(run_id, "training_id", training_id)
    else:
        tags = {"training_id": training_id} | ({"mlflow.parentRunId": parent} if parent else {})
        run_id = client.create_run(experiment, run_name=short(name), tags=tags).info.run_id
    if not earlier or "job_key" not in earlier[0].data.tags:
        describe_training(run_id, config, dataset, overrides)
    return str(run_id)


def describe_training(
    run_id: str, config: Config, dataset: PreparedDataset, overrides: Sequence[str]
) -> None:
    """Log what a training is: its settings, its data, and where it comes from."""
    client = mlflow.MlflowClient()
    hyperparameters = {
        key: value
        for key, value in flatten(config).items()
        if not key.startswith(("evaluation", "promotion", "serving"))
    }
    # the UI's comparison opens on the first names that differ: let these be the telling ones
    headline = {"learning_rate": config.optimizer.learning_rate, "model": config.model.name}
    params = [Param(key, str(value)) for key, value in (headline | hyperparameters).items()]
    source = CodeDatasetSource(tags={k: str(v) for k, v in dataset.source.items()})
    described = MetaDataset(source, name=config.dataset.name, digest=dataset.digest[:36])
    context = [InputTag("mlflow.data.context", "training")]
    client.log_inputs(run_id, [DatasetInput(described._to_mlflow_entity(), context)])
    client.log_text(run_id, OmegaConf.to_yaml(config.model_dump()), SETTINGS_FILE)
    tags = provenance() | {
        "manifest_digest": dataset.digest,
        "overrides": json.dumps(list(overrides)),
        "job_key": job_key(config, dataset),
    }
    if config.dataset.note:
        tags["mlflow.note.content"] = config.dataset.note
    client.log_batch(run_id, params=params, tags=[RunTag(*tag) for tag in tags.items()])


def answered(error: Exception) -> bool:
    """Return whether MLflow answered and refused, rather than not answer or fail."""
    return isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500


@contextmanager
def answering() -> Iterator[None]:
    """Tell in a line where MLflow does not answer: what the block does is done by a repeat."""
    try:
        yield
    except MlflowException as error:
        raise InputError(
            f"MLflow at {public(uri())} {'refuses' if answered(error) else 'does not answer'} "
            f"({explain(error)}). Nothing is lost: run the same command again once that is mended."
        ) from error


def close_failed(run_id: str, error: BaseException) -> None:
    """Close a run that ended with an error, and put that on it."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "error", explain(error))
    client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")


@contextmanager
def open_run(run_id: str) -> Iterator[None]:
    """Open a run again, to log to it; closes it as finished, or as failed on an exception.

    Raises:
        InputError: the store does not have it.
    """
    connect()
    try:
        mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if not answered(error):
            raise
        raise InputError(
            f"MLflow run {run_id} of this model is not in {public(uri())} "
            f"({error.message}). DVC restored the model from its cache, but the run is elsewhere: "
            f"set MLFLOW_TRACKING_URI to that store, or train again by `dvc repro -f -s train`."
        ) from None
    with mlflow.start_run(run_id):
        yield


def attempt(call: Callable[[], Result]) -> Result | None:
    """Return what a call gives; where MLflow does not answer, say so and return None.

    Raises:
        InputError: MLflow answered, and refused, so that trying again would not help.
    """
    try:
        return call()
    except Exception as error:
        if answered(error):
            raise InputError(f"MLflow at {public(uri())} refuses: {explain(error)}") from error
        print(
            f"MLflow at {public(uri())} does not answer ({explain(error)}). The training goes on, "
            f"and is logged when it ends.",
            flush=True,
        )
        return None


def public(address: str) -> str:
    """Return an address without the name and password it may hold."""
    return re.sub(r"//[^/@]*@", "//", address)


def job_key(config: Config, dataset: PreparedDataset) -> str:
    """Return a digest of all that decides a training: its settings and its data."""
    settings = {
        key: value for key, value in flatten(config).items() if not key.startswith("serving")
    }
    text = json.dumps([settings, dataset.digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def explain(error: BaseException) -> str:
    """Return an exception's kind and message, short enough for a tag."""
    return f"{type(error).__name__}: {error}"[:500]


def short(name: str) -> str:
    """Return a run's name cut to what a store on PostgreSQL or MySQL takes."""
    return name if len(name) <= 250 else f"{name[:249]}…"


def log_epoch(run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
    """Log an epoch's metrics to a run, in one request; epochs count from 1."""
    time = get_current_time_millis()
    batch = [Metric(name, float(value), time, epoch) for name, value in metrics.items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=batch)


def logged_epochs(run_id: str) -> set[int]:
    """Return the epochs that a run has the metrics of."""
    history = mlflow.MlflowClient().get_metric_history(run_id, "train_loss")
    return {metric.step for metric in history}


def logged(metric: str) -> bool:
    """Return whether the open run has a metric already."""
    return metric in mlflow.MlflowClient().get_run(run_id()).data.metrics


def log_metrics(metrics: Mapping[str, float], epoch: int = 0) -> None:
    """Log final metrics to the open run."""
    mlflow.log_metrics(dict(metrics), step=epoch)


def log_tags(tags: Mapping[str, object]) -> None:
    """Set tags on the open run."""
    mlflow.set_tags(tags)


def log_settings(config: Config) -> None:
    """Store all settings with the open run."""
    mlflow.log_text(OmegaConf.to_yaml(config.model_dump()), SETTINGS_FILE)


def log_files(files: Sequence[Path], folder: str) -> None:
    """Store files with the open run, in a folder of its artifacts."""
    for file in files:
        mlflow.log_artifact(str(file), folder)


def run_id() -> str:
    """Return the id of the open run."""
    return str(mlflow.active_run().info.run_id)


def record_of(run_id: str, store: str | None = None) -> Record:
    """Return what a run recorded, in the store of this project or another.

    Raises:
        InputError: the store does not have it.
    """
    connect()
    client = mlflow.MlflowClient(store)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise InputError(f"MLflow run {run_id} cannot be read: {error.message}") from None
    metrics = {
        name: {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
        for name in run.data.metrics
    }
    if not any(file.path == "config" for file in client.list_artifacts(run_id)):
        return Record(run.data.tags, metrics, "")
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(run_id, SETTINGS_FILE, folder)
        return Record(run.data.tags, metrics, Path(file).read_text())


def provenance() -> dict[str, str]:
    """Return what tells where a run comes from: command, commit, DVC experiment, lock digests."""
    tags = {"command": " ".join(sys.argv)}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if commit.returncode == 0:
        tags["git.commit"] = commit.stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
        tags["git.uncommitted_changes"] = str(bool(changed.stdout.strip())).lower()
    for variable in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE"):
        if os.environ.get(variable):
            tags[variable.lower().replace("dvc_", "dvc.")] = os.environ[variable]
    for name in ("params.yaml", "dvc.lock", "requirements.lock"):
        if Path(name).is_file():
            tags[f"sha256.{name}"] = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return tags


def _local_store() -> str:
    return f"sqlite:///{paths.project() / 'mlflow.db'}"
