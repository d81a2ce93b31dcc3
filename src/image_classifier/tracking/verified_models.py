"""Loads registered versions, after a check that their files are what was registered."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow

from image_classifier.errors import InputError
from image_classifier.project import digests
from image_classifier.tracking import connection
from image_classifier.tracking.registry import (
    DIGEST,
    Version,
    files_deleted,
    get_version,
    version_with_alias,
)
from image_classifier.tracking.stored_models import stored_files

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier


def load_classifier(uri: str) -> tuple["Classifier", Version]:
    """Return the classifier of a registered version, and the version.

    The code that is stored with the version is not run.

    Args:
        uri: models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        InputError: see `verified_files`; or another version of this package registered it.
    """
    from image_classifier.classifier import Classifier  # imports TensorFlow

    with verified_files(uri) as (folder, version):
        try:
            return Classifier.load(_classifier_in(folder)), version
        except (KeyError, TypeError) as error:  # its metadata have other fields
            raise InputError(
                f"{version.uri} was registered by another version of this package ({error}). "
                f"`dvc repro -f -s evaluate` registers the current model again."
            ) from None


def classifier_files(version: Version) -> dict[str, bytes]:
    """Return the content of each file that `Classifier.load` reads of a registered version.

    Raises:
        InputError: see `verified_files`.
    """
    with verified_files(version.uri) as (folder, _):
        return {path.name: path.read_bytes() for path in _classifier_in(folder).iterdir()}


def _classifier_in(folder: Path) -> Path:
    """Return the folder that `Classifier.load` reads, in the files of a version."""
    stored = mlflow.models.Model.load(str(folder)).flavors["python_function"]
    return folder / str(stored["artifacts"]["classifier"]["path"])


def check_version(uri: str) -> str:
    """Return the address of the version that a name stands for now.

    Args:
        uri: models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        InputError: the address does not have this form, there is no such version, or MLflow does
            not answer.
    """
    with connection.require_mlflow():
        return find_version(uri).uri


@contextmanager
def verified_files(uri: str) -> Iterator[tuple[Path, Version]]:
    """Yield a temporary folder with the files of a registered version, and the version.

    None of its code runs before its digest is checked.

    Args:
        uri: models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        InputError: the address does not have this form, there is no such version, its files have
            changed, or it was registered without a digest.
    """
    with connection.require_mlflow():
        version = find_version(uri)
        if gone := files_deleted(version):
            raise InputError(gone)
        try:
            with stored_files(version.uri) as folder:
                client = mlflow.MlflowClient()
                place = client.get_model_version_download_uri(version.name, version.version)
                check_digest(version, digests.of_folder(folder), place)
                yield folder, version
        except OSError as error:
            raise InputError(f"{uri} cannot be loaded: {error}") from None


def find_version(uri: str) -> Version:
    """Return the registered version that an address stands for now.

    Args:
        uri: models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        InputError: the address does not have this form, or the version does not exist.
        MlflowException: MLflow does not answer, or refuses for another reason.
    """
    name, number, alias = _parts(uri)
    if number:
        return get_version(name, number)
    version = version_with_alias(name, alias or "")
    if version is None:
        raise InputError(
            f"{uri}: MLflow at {connection.public_uri()} has no registered model {name} with this "
            f"alias. Run `dvc repro` to promote a champion, or name a version: models:/{name}/1."
        )
    return version


def _parts(uri: str) -> tuple[str, str | None, str | None]:
    """Return the name, and the number or the alias, in an address."""
    address = re.fullmatch(r"models:/([^/:@]+)(?:/(\d+)|@([^/:@]+))", uri)
    if address is None:
        raise InputError(f"{uri}: name the model as models:/NAME/VERSION or models:/NAME@ALIAS.")
    return address[1], address[2], address[3]


def check_digest(version: Version, digest: str, place: str) -> None:
    """Compare the digest of a version's files with the one it was registered with.

    Raises:
        InputError: they differ, or the version has no digest.
    """
    expected = version.tags.get(DIGEST)
    if expected is None:
        raise InputError(
            f"{version.uri} has no tag {DIGEST}, so its files in {place} cannot be verified. "
            f"Train the model again, or, if you trust these files, set its tag {DIGEST} to "
            f"{digest}."
        )
    if digest != expected:
        raise InputError(
            f"{version.uri} was not loaded: its files in {place} are not what was registered "
            f"(SHA-256 {digest}, expected {expected}). Restore them from a backup, or train the "
            f"model again."
        )
