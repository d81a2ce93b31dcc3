"""The only module that knows MLflow's client: runs, the registry, and where they are kept."""

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

import mlflow
import pandas
from filelock import FileLock
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis
from omegaconf import OmegaConf

from image_classifier import paths
from image_classifier.config import Config, flatten
from image_classifier.dataset import PreparedDataset
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier, Settings

CHAMPION = "champion"
CHALLENGER = "challenger"
# logs epochs while the next one trains; MLflow's own queue waits up to a second when a run ends
LOGGER = ThreadPoolExecutor(1)
SWEEP_VARIABLE = "IMAGE_CLASSIFIER_SWEEP"  # run id of the sweep that a job belongs to


@dataclass(frozen=True)
class Version:
    """A registered model version."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """The address to load or serve it by."""
        return f"models:/{self.name}/{self.version}"


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
    """How a sweep ended: by which metric jobs compare, how many there were, and the best."""

    metric: str
    finished: int
    failed: int
    best: BestJob | None


@dataclass(frozen=True)
class Record:
    """What a run recorded: tags, each metric's last value at every step, and its settings."""

    tags: dict[str, str]
    metrics: dict[str, dict[int, float]]
    settings: str


def connect() -> None:
    """Point MLflow to MLFLOW_TRACKING_URI, else to mlflow.db in the project's folder.

    `dvc exp run --queue` runs in a copy of the project; DVC_ROOT is the original's folder there.
    """
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or _local_store())


def experiment_id(name: str) -> str:
    """Return the id of the experiment, created if there is none yet."""
    connect()
    # Processes that start together on a fresh SQLite file all try to create its tables.
    with FileLock(_root() / "mlflow.db.lock"):
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        local = mlflow.get_tracking_uri() == _local_store()
        location = (_root() / "mlartifacts").as_uri() if local else None
        # so that the UI opens on training runs, not on its pages for language models
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=kind))


@contextmanager
def training_run(config: Config, dataset: PreparedDataset, name: str) -> Iterator[str]:
    """Open the MLflow run of a training; yields its id, and closes it as failed on an exception.

    Logs the hyperparameters, the dataset, and what is needed to tell and repeat the run.
    """
    experiment = experiment_id(config.tracking.experiment)
    if parent := os.environ.get(SWEEP_VARIABLE):
        experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
    if "MLFLOW_RUN_ID" in os.environ:
        run = mlflow.start_run()  # `mlflow run` has made it already, in an experiment it chose
        mlflow.set_tag("mlflow.runName", name)
    else:
        run = mlflow.start_run(experiment_id=experiment, run_name=name, parent_run_id=parent)
    with run:
        hyperparameters = {
            key: value
            for key, value in flatten(config).items()
            if not key.startswith(("evaluation", "promotion"))
        }
        # the UI's comparison opens on the first names that differ: let these be the telling ones
        headline = {"learning_rate": config.optimizer.learning_rate, "model": config.model.name}
        mlflow.log_params(headline | hyperparameters)
        mlflow.set_tags(provenance())
        if config.dataset.note:
            mlflow.set_tag("mlflow.note.content", config.dataset.note)
        source = CodeDatasetSource(tags={k: str(v) for k, v in dataset.source.items()})
        mlflow.log_input(
            MetaDataset(source, name=config.dataset.name, digest=dataset.digest[:36]),
            context="training",
        )
        mlflow.set_tag("manifest_digest", dataset.digest)
        yield run.info.run_id


@contextmanager
def evaluation_run(run_id: str) -> Iterator[None]:
    """Open the run of a training again, to log its evaluation.

    Raises:
        InputError: the store does not have it.
    """
    connect()
    try:
        mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"MLflow run {run_id} of this model is not in {mlflow.get_tracking_uri()} "
            f"({error.message}). DVC restored the model from its cache, but the run is elsewhere: "
            f"set MLFLOW_TRACKING_URI to that store, or train again by `dvc repro -f -s train`."
        ) from None
    with mlflow.start_run(run_id):
        yield


def log_epoch(epoch: int, metrics: Mapping[str, float]) -> Callable[[], None]:
    """Log an epoch's metrics to the open run in one request, by a thread; epochs count from 1.

    Returns:
        A function that returns when the request is through, and raises what went wrong.
    """
    time = get_current_time_millis()
    batch = [Metric(name, float(value), time, epoch) for name, value in metrics.items()]
    run_id = mlflow.active_run().info.run_id
    return LOGGER.submit(mlflow.MlflowClient().log_batch, run_id, metrics=batch).result


def log_metrics(metrics: Mapping[str, float], prefix: str = "", epoch: int = 0) -> None:
    """Log final metrics to the open run, each name after `prefix`."""
    mlflow.log_metrics({prefix + name: value for name, value in metrics.items()}, step=epoch)


def log_evaluation(version: Version, metrics: dict[str, float], tags: dict[str, str]) -> None:
    """Log what evaluate measured to the open run, and the tags to the version as well.

    What depends on the decision threshold is a tag: a parameter can never be logged with another
    value again.
    """
    log_metrics(metrics)
    log_tags(tags)
    tag_version(version, tags | {name: f"{value:.6g}" for name, value in metrics.items()})


def log_tags(tags: Mapping[str, object]) -> None:
    """Set tags on the open run."""
    mlflow.set_tags(tags)


def log_settings(config: Config) -> None:
    """Store all settings with the open run, as config/params.yaml."""
    mlflow.log_text(OmegaConf.to_yaml(config.model_dump()), "config/params.yaml")


def log_files(files: Sequence[Path], folder: str) -> None:
    """Store files with the open run, in a folder of its artifacts."""
    for file in files:
        mlflow.log_artifact(str(file), folder)


def register(
    config: Config, dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]
) -> Version:
    """Store a classifier's folder with the open run, and register it as a new version.

    Args:
        config: Names the registered model.
        dataset: Gives a validation image as the model's input example.
        folder: What `Classifier.load` reads.
        figures: Validation metrics, set as the version's tags.
    """
    from image_classifier import serving  # imports TensorFlow, which rollback does without
    from image_classifier.classifier import read_settings

    settings = read_settings(folder)
    row = dataset.rows[dataset.indices("validation")[0]]
    example = base64.b64encode((paths.RAW / row.path).read_bytes()).decode()
    package = Path(serving.__file__).parent
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(package / "serving.py"),
        artifacts={"classifier": str(folder)},
        code_paths=[str(package)],
        signature=serving.signature(settings),
        input_example=pandas.DataFrame({"image": [example]}),
        # given, because MLflow takes seconds to infer them
        pip_requirements=[
            f"{name}=={importlib.metadata.version(name)}"
            for name in ("tensorflow", "mlflow", "numpy", "pillow", "pandas", "pybase64", "scipy")
        ],
        registered_model_name=config.tracking.registered_model,
    )
    version = Version(
        name=config.tracking.registered_model,
        version=str(info.registered_model_version),
        run_id=mlflow.active_run().info.run_id,
        tags={"manifest_digest": dataset.digest, **decision_tags(settings)}
        | {f"validation_{name}": f"{value:.6g}" for name, value in figures.items()},
    )
    tag_version(version, version.tags)
    log_tags({"registered_version": version.uri})
    return version


def decision_tags(settings: "Settings") -> dict[str, str]:
    """Return how a classifier decides, as tags."""
    return {"threshold": f"{settings.threshold:.6g}", "temperature": f"{settings.temperature:.6g}"}


def tag_version(version: Version, tags: Mapping[str, str]) -> None:
    """Set tags on a registered version."""
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(version.name, version.version, key, value)


def describe(version: Version, text: str) -> None:
    """Put a description on the open run's page and on a registered version's."""
    mlflow.set_tag("mlflow.note.content", text)
    mlflow.MlflowClient().update_model_version(version.name, version.version, text)


def get_version(name: str, version: str) -> Version:
    """Return a registered version.

    Raises:
        InputError: the store does not have it.
    """
    connect()
    try:
        found = mlflow.MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        raise InputError(f"{name} version {version} is not registered: {error.message}") from None
    return Version(name, str(found.version), found.run_id, found.tags)


def champion(name: str) -> Version | None:
    """Return the version with the alias `champion`, if there is one."""
    connect()
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None
    return Version(name, str(found.version), found.run_id, found.tags)


def set_alias(version: Version, alias: str) -> None:
    """Give the alias to this version, and to no other."""
    mlflow.MlflowClient().set_registered_model_alias(version.name, alias, version.version)


def make_champion(version: Version) -> None:
    """Give the alias `champion` to a version, and note on it which version had it before."""
    before = champion(version.name)
    if before is None or before.version != version.version:
        tag_version(version, {"champion_before": before.version if before else ""})
        set_alias(version, CHAMPION)
    mlflow.MlflowClient().delete_registered_model_alias(version.name, CHALLENGER)


def roll_back(name: str) -> tuple[Version, Version]:
    """Give the alias `champion` back; return the version that had it, and the one that has it now.

    Raises:
        InputError: there is no champion, or no version was champion before it.
    """
    current = champion(name)
    if current is None:
        raise InputError(f"{name} has no champion to roll back from.")
    if not current.tags.get("champion_before"):
        raise InputError(f"{current.uri} is the first champion of {name}: there is none before it.")
    previous = get_version(name, current.tags["champion_before"])
    set_alias(previous, CHAMPION)
    tag_version(current, {"rolled_back": date.today().isoformat()})
    return current, previous


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
        file = client.download_artifacts(run_id, "config/params.yaml", folder)
        return Record(run.data.tags, metrics, Path(file).read_text())


def log_decision(version: Version, text: str, file: Path) -> None:
    """Put the gate's decision on a version and its run: as a tag of both, and as a file."""
    client = mlflow.MlflowClient()
    tag_version(version, {"promotion": text})
    client.set_tag(version.run_id, "promotion", text)
    client.log_artifact(version.run_id, str(file), "promotion")


def load_classifier(uri: str) -> "Classifier":
    """Return the `Classifier` of a registered model version, e.g. `models:/name@champion`.

    Raises:
        InputError: there is no such model.
    """
    connect()
    try:
        served = mlflow.pyfunc.load_model(uri).unwrap_python_model()
        return cast("Classifier", served.classifier)
    except MlflowException as error:
        raise InputError(f"{uri} cannot be loaded: {error.message}") from None


def start_sweep(experiment_name: str, overrides: Sequence[str]) -> str:
    """Create the parent run of a sweep, tell it to the jobs by the environment; return its id."""
    experiment = experiment_id(experiment_name)
    client = mlflow.MlflowClient()
    # `mlflow run` has made a run already; taken out, so that no job takes it for its own
    run_id = os.environ.pop("MLFLOW_RUN_ID", None) or client.create_run(experiment).info.run_id
    tags = {"mlflow.runName": "sweep " + " ".join(overrides), **provenance()}
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    os.environ[SWEEP_VARIABLE] = run_id
    return str(run_id)


def finish_sweep(parent: str) -> SweepResult:
    """Close a sweep's parent run, and name its best child on it."""
    os.environ.pop(SWEEP_VARIABLE, None)
    client = mlflow.MlflowClient()
    children = client.search_runs(
        [client.get_run(parent).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent}'",
        max_results=10_000,
    )
    finished = [child for child in children if child.info.status == "FINISHED"]
    monitors = {child.data.params["training.monitor"] for child in finished}
    monitor = monitors.pop() if len(monitors) == 1 else "val_accuracy"
    metric = f"best_{monitor}"
    result = SweepResult(metric, len(finished), len(children) - len(finished), None)
    if finished:
        choose = min if monitor == "val_loss" else max
        child = choose(finished, key=lambda child: child.data.metrics[metric])
        result.best = BestJob(
            name=child.info.run_name,
            run_id=child.info.run_id,
            value=child.data.metrics[metric],
            version=child.data.tags["registered_version"],
            overrides=json.loads(child.data.tags["overrides"]),
        )
        client.log_metric(parent, metric, result.best.value)
        for key, value in asdict(result.best).items():
            client.set_tag(parent, f"best.{key}", value)
    client.log_metric(parent, "jobs_finished", result.finished)
    client.log_metric(parent, "jobs_failed", result.failed)
    client.set_terminated(parent, "FINISHED" if finished and not result.failed else "FAILED")
    return result


def abandon_sweep() -> None:
    """Close the parent run as failed, if this process has a sweep open."""
    if parent := os.environ.pop(SWEEP_VARIABLE, None):
        mlflow.MlflowClient().set_terminated(parent, "FAILED")


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
    return f"sqlite:///{_root() / 'mlflow.db'}"


def _root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())
