"""The only module that knows MLflow's client: runs, the registry, and where they are kept."""

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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

from image_classifier import digests, paths
from image_classifier.config import Config, Serving, flatten
from image_classifier.dataset import PreparedDataset
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier, Settings

CHAMPION = "champion"
CHALLENGER = "challenger"
# what a stored model runs on
REQUIREMENTS = ("tensorflow", "mlflow", "numpy", "pillow", "pandas", "pybase64", "scipy", "joblib")
DIGEST = "model_sha256"  # a version's tag: the SHA-256 of its files
# logs epochs while the next one trains; MLflow's own queue waits up to a second when a run ends
LOGGER = ThreadPoolExecutor(1)
SWEEP_VARIABLE = "IMAGE_CLASSIFIER_SWEEP"  # names the sweep's run to its jobs


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
class Record:
    """What a run recorded: tags, each metric's last value at every step, and its settings."""

    tags: dict[str, str]
    metrics: dict[str, dict[int, float]]
    settings: str


def connect() -> None:
    """Point MLflow to MLFLOW_TRACKING_URI, else to mlflow.db in the project's folder.

    `dvc exp run --queue` runs in a copy of the project; DVC_ROOT is the original's folder there.
    """
    mlflow.set_tracking_uri(uri())


def uri() -> str:
    """Return the address of the store that `connect` points to."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _local_store()


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
def training_run(
    config: Config, dataset: PreparedDataset, name: str, overrides: Sequence[str] = ()
) -> Iterator[str]:
    """Open the MLflow run of a training; yields its id, and closes it as failed on an exception.

    Logs the hyperparameters, the dataset, and what is needed to tell and repeat the run.
    """
    experiment = experiment_id(config.tracking.experiment)
    if parent := os.environ.get(SWEEP_VARIABLE):
        experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
    if "MLFLOW_RUN_ID" in os.environ:
        run = mlflow.start_run()  # `mlflow run` has made it already, in an experiment it chose
        mlflow.set_tag("mlflow.runName", short(name))
    else:
        run = mlflow.start_run(experiment_id=experiment, run_name=short(name), parent_run_id=parent)
    with run:
        hyperparameters = {
            key: value
            for key, value in flatten(config).items()
            if not key.startswith(("evaluation", "promotion", "serving"))
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
        mlflow.set_tags(
            {
                "manifest_digest": dataset.digest,
                "job_key": job_key(config, dataset),
                "overrides": json.dumps(list(overrides)),
            }
        )
        try:
            yield run.info.run_id
        except Exception as error:
            mlflow.set_tag("error", explain(error))
            raise


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


def job_key(config: Config, dataset: PreparedDataset) -> str:
    """Return a digest of all that decides a training: its settings and its data."""
    settings = {
        key: value for key, value in flatten(config).items() if not key.startswith("serving")
    }
    text = json.dumps([settings, dataset.digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def explain(error: Exception) -> str:
    """Return an exception's kind and message, short enough for a tag."""
    return f"{type(error).__name__}: {error}"[:500]


def short(name: str) -> str:
    """Return a run's name cut to what a store on PostgreSQL or MySQL takes."""
    return name if len(name) <= 250 else f"{name[:249]}…"


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
    address, digest = store_model(dataset, folder)
    tags = version_tags(dataset, folder, figures) | {DIGEST: digest}
    return register_stored(address, config.tracking.registered_model, run_id(), tags)


def store_for_later(dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]) -> None:
    """Store a classifier's folder with the open run, and on its tags what to register it with."""
    address, digest = store_model(dataset, folder)
    tags = version_tags(dataset, folder, figures) | {DIGEST: digest}
    log_tags({"stored_model": address, "version_tags": json.dumps(tags)})


def version_tags(
    dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]
) -> dict[str, str]:
    """Return the tags of a version: its data, how it decides, and its validation figures."""
    from image_classifier.classifier import read_settings  # imports TensorFlow

    tags = {"manifest_digest": dataset.digest, **decision_tags(read_settings(folder))}
    return tags | {f"validation_{name}": f"{value:.6g}" for name, value in figures.items()}


def register_stored(address: str, name: str, run_id: str, tags: dict[str, str]) -> Version:
    """Register a stored model as a new version with tags; note it on its run."""
    number = str(mlflow.register_model(address, name).version)
    version = Version(name, number, run_id, tags)
    tag_version(version, tags)
    mlflow.MlflowClient().set_tag(run_id, "registered_version", version.uri)
    return version


def run_id() -> str:
    """Return the id of the open run."""
    return str(mlflow.active_run().info.run_id)


def store_model(dataset: PreparedDataset, folder: Path) -> tuple[str, str]:
    """Store a classifier's folder with the open run.

    Args:
        dataset: Gives a validation image as the model's input example.
        folder: What `Classifier.load` reads.

    Returns:
        The stored model's address, and the SHA-256 of its files as they came back from the store.

    Raises:
        InputError: they did not come back as they were sent.
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
        model_config=Serving().of_images,
        signature=serving.signature(settings),
        input_example=pandas.DataFrame({"image": [example]}),
        # given, because MLflow takes seconds to infer them
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
    )
    with stored_files(info.model_uri) as stored:
        sent = {folder: stored / "artifacts" / folder.name, package: stored / "code" / package.name}
        for ours, theirs in sent.items():
            if digests.of_folder(ours) != digests.of_folder(theirs):
                raise InputError(
                    f"{ours} is not the same in the store, {uri()}, as it is here: the store is "
                    f"damaged or full. Look at its disk, then run this again."
                )
        return str(info.model_uri), digests.of_folder(stored)


@contextmanager
def stored_files(address: str) -> Iterator[Path]:
    """Yield a folder with a copy of a stored model's files; it is removed afterwards.

    A copy of a local store, too: nobody else can change what was verified before it is loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(mlflow.artifacts.download_artifacts(address, dst_path=folder))
        # what MLflow adds to a download, and what Python added when it ran the code in the store
        (files / "registered_model_meta").unlink(missing_ok=True)
        for compiled in [*files.rglob("__pycache__")]:
            shutil.rmtree(compiled)
        yield files


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
        InputError: `load_verified` refuses it.
    """
    model, _ = load_verified(uri)
    return cast("Classifier", model.unwrap_python_model().classifier)


def load_verified(
    uri: str, model_config: Mapping[str, int] | None = None
) -> tuple[mlflow.pyfunc.PyFuncModel, Version]:
    """Load a registered version whose files are what they were when it was registered.

    None of its code runs before that is certain.

    Args:
        uri: models:/NAME/VERSION or models:/NAME@ALIAS.
        model_config: Limits instead of those stored with the model; see `Serving.of_images`.

    Raises:
        InputError: it is another address, there is no such version, its files changed, or it was
            registered without a digest.
    """
    address = re.fullmatch(r"models:/([^/:@]+)(?:/(\d+)|@([^/:@]+))", uri)
    if address is None:
        raise InputError(f"{uri}: give a model as models:/NAME/VERSION or models:/NAME@ALIAS.")
    name, number, alias = address.groups()
    connect()
    client = mlflow.MlflowClient()
    try:
        found = (
            client.get_model_version(name, number)
            if number
            else client.get_model_version_by_alias(name, alias)
        )
        version = Version(name, str(found.version), found.run_id, found.tags)
        with stored_files(version.uri) as folder:
            place = client.get_model_version_download_uri(name, version.version)
            check_digest(version, digests.of_folder(folder), place)
            return mlflow.pyfunc.load_model(str(folder), model_config=model_config), version
    except MlflowException as error:
        raise InputError(f"{uri} cannot be loaded: {error.message}") from None
    except OSError as error:
        raise InputError(f"{uri} cannot be loaded: {error}") from None


def check_digest(version: Version, digest: str, place: str) -> None:
    """Compare the digest of a version's files with the one it was registered with.

    Raises:
        InputError: they differ, or the version has none.
    """
    expected = version.tags.get(DIGEST)
    if expected is None:
        raise InputError(
            f"{version.uri} has no tag {DIGEST}, so its files in {place} cannot be verified: it "
            f"was registered before versions had one. Train it again, or, if you trust these "
            f"files, set its tag {DIGEST} to {digest}."
        )
    if digest != expected:
        raise InputError(
            f"{version.uri} is not loaded: its files in {place} are not what was registered "
            f"(SHA-256 {digest}, expected {expected}). Restore them from a backup, or train the "
            f"model again."
        )


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
