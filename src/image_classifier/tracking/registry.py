"""The model registry in MLflow: versions, their files and aliases, and the champion."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException

from image_classifier import digests
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.schema import Config
from image_classifier.tracking import connection, runs
from image_classifier.tracking.stored_models import store_model, stored_files

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier, Settings


CHAMPION = "champion"
CHALLENGER = "challenger"
DIGEST = "model_sha256"  # a version's tag: the SHA-256 of its files


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


def log_evaluation(version: Version, metrics: dict[str, float], tags: dict[str, str]) -> None:
    """Log what evaluate measured to the open run, and the tags to the version as well.

    What depends on the decision threshold is a tag: a parameter can never be logged with another
    value again.
    """
    runs.log_metrics(metrics)
    runs.log_tags(tags)
    tag_version(version, tags | {name: f"{value:.6g}" for name, value in metrics.items()})


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
    for found in mlflow.MlflowClient().search_model_versions(f"run_id = '{runs.run_id()}'"):
        version = get_version(found.name, found.version)
        if found.name == name and all(version.tags.get(key) == tags[key] for key in decided):
            return version
    address, digest = store_model(dataset, folder)
    return register_stored(address, name, runs.run_id(), tags | {DIGEST: digest})


def store_for_later(dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]) -> None:
    """Store a classifier's folder with the open run, and on its tags what to register it with."""
    if "stored_model" not in mlflow.MlflowClient().get_run(runs.run_id()).data.tags:
        address, digest = store_model(dataset, folder)
        tags = version_tags(dataset, folder, figures) | {DIGEST: digest}
        runs.log_tags({"stored_model": address, "version_tags": json.dumps(tags)})


def version_tags(
    dataset: PreparedDataset, folder: Path, figures: Mapping[str, float]
) -> dict[str, str]:
    """Return the tags of a version: its data, how it decides, and its validation figures."""
    from image_classifier.classifier import read_settings  # imports TensorFlow

    tags = {"manifest_digest": dataset.digest, **decision_tags(read_settings(folder))}
    return tags | {name: f"{value:.6g}" for name, value in figures.items()}


def register_stored(address: str, name: str, run_id: str, tags: dict[str, str]) -> Version:
    """Register a stored model as a new version with tags; note it on its run."""
    number = str(mlflow.register_model(address, name, tags=tags).version)
    version = Version(name, number, run_id, tags)
    mlflow.MlflowClient().set_tag(run_id, "registered_version", version.uri)
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
    connection.connect()
    try:
        found = mlflow.MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if not connection.answered(error):
            raise
        raise InputError(f"{name} version {version} is not registered: {error.message}") from None
    return Version(name, str(found.version), found.run_id, found.tags)


def champion(name: str) -> Version | None:
    """Return the version with the alias `champion`, if there is one."""
    connection.connect()
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if not connection.answered(error):
            raise  # or a version would be promoted for want of a comparison
        return None
    return Version(name, str(found.version), found.run_id, found.tags)


def set_alias(version: Version, alias: str) -> None:
    """Give the alias to this version, and to no other."""
    mlflow.MlflowClient().set_registered_model_alias(version.name, alias, version.version)


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let one process of this machine at a time decide on the aliases of a registered model."""
    digest = hashlib.sha256(f"{connection.uri()} {name}".encode()).hexdigest()[:16]
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


def log_decision(version: Version, text: str, file: Path) -> None:
    """Put the gate's decision on a version and its run: as a tag of both, and as a file."""
    client = mlflow.MlflowClient()
    tag_version(version, {"promotion": text})
    client.set_tag(version.run_id, "promotion", text)
    client.log_artifact(version.run_id, str(file), "promotion")


def load_classifier(uri: str) -> tuple["Classifier", Version]:
    """Return the `Classifier` of a registered version, e.g. `models:/name@champion`, and which.

    Raises:
        InputError: `load_verified` refuses it.
    """
    model, version = load_verified(uri)
    return cast("Classifier", model.unwrap_python_model().classifier), version


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
    connection.connect()
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
        advice = (
            ". `dvc repro` makes a champion, or says why not; a version that is none is loaded by "
            f"its number, as --model models:/{name}/1"
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            else ""
        )
        raise InputError(f"{uri} cannot be loaded: {error.message.rstrip('.')}{advice}.") from None
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
