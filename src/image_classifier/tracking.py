"""The only module that knows MLflow's client: runs, the registry, and where they are kept."""

import base64
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import unquote, urlsplit

import mlflow
import pandas
from filelock import FileLock
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis
from omegaconf import OmegaConf
from PIL import Image

from image_classifier import digests, paths
from image_classifier.config import Config, Serving, flatten
from image_classifier.dataset import PreparedDataset
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier, Settings

Result = TypeVar("Result")

CHAMPION = "champion"
CHALLENGER = "challenger"
SETTINGS_FILE = "config/params.yaml"
# a server that is gone is given up after a quarter of a minute; MLflow's own settings take minutes
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
# what a stored model runs on
REQUIREMENTS = ("tensorflow", "mlflow", "numpy", "pillow", "pandas", "pybase64", "scipy", "joblib")
DIGEST = "model_sha256"  # a version's tag: the SHA-256 of its files
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
    """Store all settings with the open run."""
    mlflow.log_text(OmegaConf.to_yaml(config.model_dump()), SETTINGS_FILE)


def log_files(files: Sequence[Path], folder: str) -> None:
    """Store files with the open run, in a folder of its artifacts."""
    for file in files:
        mlflow.log_artifact(str(file), folder)


def register(
    config: Config, dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]
) -> Version:
    """Store a classifier's folder with the open run, and register it as a new version.

    An earlier attempt may have done that already: then its version is returned.

    Args:
        config: Names the registered model.
        dataset: Gives a validation image as the model's input example.
        folder: What `Classifier.load` reads.
        figures: Validation metrics, set as the version's tags.
    """
    tags = version_tags(dataset, folder, figures)
    name, decided = config.tracking.registered_model, ("threshold", "temperature")
    for found in mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id()}'"):
        version = get_version(found.name, found.version)
        if found.name == name and all(version.tags.get(key) == tags[key] for key in decided):
            return version
    address, digest = store_model(dataset, folder)
    return register_stored(address, name, run_id(), tags | {DIGEST: digest})


def store_for_later(dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]) -> None:
    """Store a classifier's folder with the open run, and on its tags what to register it with."""
    if "stored_model" not in mlflow.MlflowClient().get_run(run_id()).data.tags:
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
    number = str(mlflow.register_model(address, name, tags=tags).version)
    version = Version(name, number, run_id, tags)
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
    picture = io.BytesIO()  # of the prepared image: the file may have gone since
    pixels = dataset.images[dataset.indices("validation")[0]]
    Image.fromarray(pixels.squeeze()).save(picture, "PNG")
    example = base64.b64encode(picture.getvalue()).decode()
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
        if not answered(error):
            raise
        raise InputError(f"{name} version {version} is not registered: {error.message}") from None
    return Version(name, str(found.version), found.run_id, found.tags)


def champion(name: str) -> Version | None:
    """Return the version with the alias `champion`, if there is one."""
    connect()
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if not answered(error):
            raise  # or a version would be promoted for want of a comparison
        return None
    return Version(name, str(found.version), found.run_id, found.tags)


def set_alias(version: Version, alias: str) -> None:
    """Give the alias to this version, and to no other."""
    mlflow.MlflowClient().set_registered_model_alias(version.name, alias, version.version)


@contextmanager
def gate(name: str) -> Iterator[None]:
    """Let one process of this machine at a time decide on the aliases of a registered model."""
    digest = hashlib.sha256(f"{uri()} {name}".encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"image-classifier-{os.getuid()}-{digest}.lock"):
        yield


def make_champion(version: Version, beaten: Version | None) -> None:
    """Give the alias `champion` to a version, and note on it which version had it before.

    Args:
        version: The new champion.
        beaten: The champion that it was compared with; None where there was none, or itself.

    Raises:
        InputError: another machine made another version champion meanwhile.
    """
    before = champion(version.name)
    if before is None or before.version != version.version:
        if (before and before.version) != (beaten and beaten.version):
            raise InputError(
                f"another version of {version.name} became champion meanwhile: run "
                f"`dvc repro` again, to compare with that one."
            )
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
        file = client.download_artifacts(run_id, SETTINGS_FILE, folder)
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
    return f"sqlite:///{paths.project() / 'mlflow.db'}"
