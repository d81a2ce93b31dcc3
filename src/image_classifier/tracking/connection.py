"""Where MLflow keeps the runs, and what to do where that does not answer."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException

from image_classifier import paths
from image_classifier.errors import InputError

Result = TypeVar("Result")
# a server that is gone is given up after a quarter of a minute; MLflow's own settings take minutes
HTTP_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def connect() -> None:
    """Point MLflow to MLFLOW_TRACKING_URI, else to mlflow.db in the project's folder."""
    for name, value in HTTP_LIMITS.items():
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


def public(address: str) -> str:
    """Return an address without the name and password it may hold."""
    return re.sub(r"//[^/@]*@", "//", address)


def experiment_id(name: str) -> str:
    """Return the id of the experiment, created if there is none yet."""
    connect()
    # Processes that start together on a fresh SQLite file all try to create its tables.
    with FileLock(paths.project() / "mlflow.db.lock"):
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = artifact_location()
        # so that the UI opens on training runs, not on its pages for language models
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=kind))


def artifact_location() -> str | None:
    """Return where a new experiment keeps its files: None where the server says so itself.

    Without a server that is the project's folder, not the current one as MLflow has it: of a
    queued experiment of DVC, that is a copy which is deleted.
    """
    served = urlsplit(uri()).scheme in ("http", "https", "databricks")
    return None if served else (paths.project() / "mlartifacts").as_uri()


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


def explain(error: BaseException) -> str:
    """Return an exception's kind and message, short enough for a tag."""
    return f"{type(error).__name__}: {error}"[:500]


def _local_store() -> str:
    return f"sqlite:///{paths.project() / 'mlflow.db'}"
