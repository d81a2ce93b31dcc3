"""Versions in MLflow's model registry: registered, tagged, described and found."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from image_classifier import serving
from image_classifier.config.schema import Config, Tracking
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.project import digests, paths
from image_classifier.tracking import connection, runs
from image_classifier.tracking.searches import pages
from image_classifier.tracking.stored_models import store_model

DIGEST = "model_sha256"  # a version's tag: the SHA-256 of its files
LONGEST = 5000  # characters of a description that a registry on PostgreSQL takes
LISTED = 10  # versions in a message
# the code that decides what a stored model answers
SERVING_CODE = [
    Path(serving.__path__[0]) / name
    for name in (
        "base64_text.py",
        "batches.py",
        "image_limits.py",
        "image_service.py",
        "prediction.py",
        "pyfunc_model.py",
    )
]
# the description of a registered model
ALIASES = (
    "`champion` is the version that `serve` and `predict` use. `challenger` is one that only its "
    "comparison with the champion keeps from being champion. The description of an evaluated "
    "version is its model card; its tag `promotion` says what the gate decided."
)
# the tags that make a version of a run differ from another version of the same run
DECISION_TAGS = (
    "threshold", "temperature", "test_time_augmentation", "doubt", "serving_sha256",
)  # fmt: skip


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


def register(
    config: Config, dataset: PreparedDataset, folder: Path, metrics: Mapping[str, float]
) -> Version:
    """Store a classifier's folder with the open run, and register it as a new version.

    If the run already has a version that decides in the same way, that version is returned: a
    repeat registers nothing.

    Args:
        config: Names the registered model, and gives its limits on images.
        dataset: Gives a validation image as the model's input example.
        folder: What `Classifier.load` reads.
        metrics: The most telling validation metrics, set as tags of the version.
    """
    tags = version_tags(dataset, folder, metrics)
    name = config.tracking.registered_model
    for found in mlflow.MlflowClient().search_model_versions(f"run_id = '{runs.run_id()}'"):
        version = get_version(found.name, found.version)
        if found.name == name and all(version.tags.get(key) == tags[key] for key in DECISION_TAGS):
            if files_deleted(version):
                continue
            return version
    address, digest = store_model(config, dataset, folder)
    return register_stored(address, name, runs.run_id(), tags | {DIGEST: digest})


def store_for_later(
    config: Config, dataset: PreparedDataset, folder: Path, metrics: Mapping[str, float]
) -> None:
    """Store a classifier's folder with the open run, and as tags what to register it with."""
    if "stored_model" not in mlflow.MlflowClient().get_run(runs.run_id()).data.tags:
        address, digest = store_model(config, dataset, folder)
        tags = version_tags(dataset, folder, metrics) | {DIGEST: digest}
        runs.log_tags({"stored_model": address, "version_tags": json.dumps(tags)})


def register_stored(address: str, name: str, run_id: str, tags: dict[str, str]) -> Version:
    """Register a stored model as a new version with tags; record the version on its run."""
    number = str(mlflow.register_model(address, name, tags=tags).version)
    version = Version(name, number, run_id, tags)
    if number == "1":
        mlflow.MlflowClient().update_registered_model(name, ALIASES)
    mlflow.MlflowClient().set_tag(run_id, "registered_version", version.uri)
    return version


def is_kept(tags: Mapping[str, str], tracking: Tracking) -> bool:
    """Return whether the store has what a sweep wants to keep of a training's model.

    Args:
        tags: The tags of the training's run.
        tracking: `register_models` says what is wanted.

    Raises:
        MlflowException: MLflow does not answer, so it is not known.
    """
    address = tags.get("registered_version", "")
    if tracking.register_models == "none":
        return True
    if not address and tracking.register_models == "best":
        address = tags.get("stored_model", "")
    elif not address.startswith(f"models:/{tracking.registered_model}/"):
        return False
    try:
        mlflow.models.get_model_info(address)
    except MlflowException as error:
        if not connection.is_missing(error):
            raise
        return False  # somebody deleted it
    except OSError:  # somebody deleted its files
        return False
    return True


def version_tags(
    dataset: PreparedDataset, folder: Path, metrics: Mapping[str, float]
) -> dict[str, str]:
    """Return the tags of a version: its data, how it decides, and its validation metrics."""
    from image_classifier import known_images
    from image_classifier.classifier import read_metadata  # imports TensorFlow

    metadata, known = read_metadata(folder), known_images.read(folder)
    knows = "nothing" if known is None else "digests" if known.digests else "features"
    code = "".join(digests.of_file(file) for file in SERVING_CODE)
    of_run = mlflow.MlflowClient().get_run(runs.run_id()).data.tags
    return {
        **{
            key: value
            for key, value in of_run.items()
            if key == "backbone_sha256" or key.startswith("start_from")
        },
        "manifest_digest": dataset.digest,
        "threshold": f"{metadata.threshold:.6g}",
        "temperature": f"{metadata.temperature:.6g}",
        "test_time_augmentation": "flip" if metadata.flip else "none",
        "doubt": f"coverage {metadata.coverage}, plausible from {metadata.plausible_limit:.6g}, "
        f"unknown when {'/'.join(metadata.unknown) or 'never'}, unusual from "
        f"{metadata.unusual_percentile:g}, knows {knows} of its images",
        "serving_sha256": hashlib.sha256(code.encode()).hexdigest(),
        **texts(metrics),
    }


def texts(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return metrics as the tags of a version."""
    return {name: f"{value:.6g}" for name, value in metrics.items()}


def tag_version(version: Version, tags: Mapping[str, str]) -> None:
    """Set tags on a registered version."""
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(version.name, version.version, key, value)


def set_description(version: Version, text: str) -> None:
    """Set the description of the open run and of a registered version; cut what is too long."""
    text = runs.note(text)
    if len(text) > LONGEST:
        text = (
            f"{text[: LONGEST - 100]}…\n\nThe rest is in `evaluation/model_card.md` of the run.\n"
        )
    mlflow.set_tag("mlflow.note.content", text)
    mlflow.MlflowClient().update_model_version(version.name, version.version, text)


def get_version(name: str, version: str) -> Version:
    """Return a registered version.

    Raises:
        InputError: the store does not have it; the text says which versions it has.
        MlflowException: MLflow does not answer, or refuses for another reason.
    """
    connection.connect()
    client = mlflow.MlflowClient()
    try:
        found = client.get_model_version(name, version)
    except MlflowException as error:
        if not connection.is_missing(error):
            raise
        numbers = sorted(int(other.version) for other in versions_of(name))
        if not numbers:
            raise InputError(
                f"{connection.public_uri()} has no version of a registered model {name}."
            ) from None
        # numbers are given once
        deleted = "was deleted" if int(version) < numbers[-1] else "does not exist, or was deleted"
        others = ", ".join(map(str, numbers[-LISTED:]))
        raise InputError(
            f"Version {version} of {name} {deleted}. The last versions that exist: {others}."
        ) from None
    return Version(name, str(found.version), found.run_id, found.tags)


def versions_of(name: str) -> list[ModelVersion]:
    """Return the versions of a registered model that were not deleted."""
    # not by a filter, in which the name could not have both kinds of quotes
    found = pages(mlflow.MlflowClient().search_model_versions)
    return [version for version in found if version.name == name]


def version_with_alias(name: str, alias: str) -> Version | None:
    """Return the version that an alias names; None if the registered model has no such alias.

    Raises:
        InputError: the version that it names was deleted.
        MlflowException: MLflow does not answer, or refuses for another reason.
    """
    connection.connect()
    try:
        aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    except MlflowException as error:
        if not connection.is_missing(error):
            raise  # only a certain absence is one: else a version would become champion uncompared
        return None
    if alias not in aliases:
        return None
    try:
        return get_version(name, str(aliases[alias]))
    except InputError as error:
        call = f"delete_registered_model_alias({name!r}, {alias!r})"
        raise InputError(
            f"The alias {alias} of {name} names a version that no longer exists. {error} Remove "
            f"the alias by {client_call(call)}."
        ) from None


def client_call(call: str) -> str:
    """Return the command that calls MLflow's client, for a message."""
    return f"`python -c {shlex.quote(f'import mlflow; mlflow.MlflowClient().{call}')}`"


def files_deleted(version: Version) -> str:
    """Return that the files of a version were deleted or moved, and what helps; else nothing."""
    if mlflow.artifacts.list_artifacts(artifact_uri=version.uri):
        return ""
    place = mlflow.MlflowClient().get_model_version_download_uri(version.name, version.version)
    stored = unquote(urlsplit(place).path).partition("/mlartifacts/")
    here = paths.project() / "mlartifacts"
    if stored[1] and (here / stored[2]).exists():  # MLflow stores absolute paths
        link = shlex.join(["ln", "-s", str(paths.project()), stored[0]])
        return (
            f"The files of {version.uri} are in {here}, but MLflow looks for them in "
            f"{stored[0]}/mlartifacts: the project was moved. A link at the old place helps: "
            f"`{link}`."
        )
    return (
        f"The files of {version.uri} were deleted from {place}: restore them from a backup"
        f"{runs.TRAIN_AGAIN}."
    )
