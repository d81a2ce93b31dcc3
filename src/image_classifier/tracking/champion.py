"""Who is champion: the aliases of a registered model, and the decisions of the gate."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import mlflow
from filelock import FileLock

from image_classifier.errors import InputError
from image_classifier.tracking import connection, runs
from image_classifier.tracking.registry import (
    Version,
    client_call,
    files_deleted,
    get_version,
    tag_version,
    version_with_alias,
)

CHAMPION = "champion"
CHALLENGER = "challenger"


def current_champion(name: str) -> Version | None:
    """Return the version with the alias `champion`, or None; see `registry.version_with_alias`."""
    return version_with_alias(name, CHAMPION)


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let only one process of this machine change the aliases of a registered model."""
    digest = hashlib.sha256(f"{connection.uri()} {name}".encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"image-classifier-{os.getuid()}-{digest}.lock"):
        yield


def make_champion(version: Version, beaten: Version | None) -> None:
    """Give the alias `champion` to a version, and record which version had it before.

    Args:
        version: The new champion.
        beaten: The champion that it was compared with; None if there was none, or if it was this
            version.

    Raises:
        InputError: another machine made another version champion since the comparison.
    """
    before = current_champion(version.name)
    if before is None or before.version != version.version:
        if (before and before.version) != (beaten and beaten.version):
            raise InputError(
                f"another version of {version.name} has become champion since the comparison: run "
                f"`dvc repro` again, to compare with that one."
            )
        tag_version(version, {"champion_before": before.version if before else ""})
        _set_alias(version, CHAMPION)
    mlflow.MlflowClient().delete_registered_model_alias(version.name, CHALLENGER)


def make_challenger(version: Version) -> None:
    """Give the alias `challenger` to a version."""
    _set_alias(version, CHALLENGER)


def roll_back(name: str) -> tuple[Version, Version]:
    """Give the alias `champion` back to the version that had it before.

    Returns:
        The version that had the alias, and the version that has it now.

    Raises:
        InputError: there is no champion, or the previous champion does not exist.
    """
    current = current_champion(name)
    if current is None:
        raise InputError(f"{name} has no champion to roll back from.")
    if not current.tags.get("champion_before"):
        raise InputError(f"{current.uri} is the first champion of {name}: there is no earlier one.")
    try:
        previous = get_version(name, current.tags["champion_before"])
        if gone := files_deleted(previous):
            raise InputError(gone)
    except InputError as error:
        call = f"set_registered_model_alias({name!r}, {CHAMPION!r}, 'VERSION')"
        raise InputError(
            f"{current.uri} is still champion. {error} To make another version champion: "
            f"{client_call(call)}."
        ) from None
    _set_alias(previous, CHAMPION)
    tag_version(current, {"rolled_back": date.today().isoformat()})
    return current, previous


def without_champion(champion: Version) -> str:
    """Return how to start again without a champion, as a sentence without its full stop."""
    call = client_call(f"delete_registered_model_alias({champion.name!r}, {CHAMPION!r})")
    return f"To start again without a champion: {call}"


def log_decision(version: Version, text: str, file: Path) -> None:
    """Log the gate's decision: as a tag of the version and of its run, and as a file of the run."""
    client = mlflow.MlflowClient()
    tag_version(version, {"promotion": runs.cut(text)})
    client.set_tag(version.run_id, "promotion", runs.cut(text))
    client.log_artifact(version.run_id, str(file), "promotion")


def _set_alias(version: Version, alias: str) -> None:
    mlflow.MlflowClient().set_registered_model_alias(version.name, alias, version.version)
