"""The connection to MLflow: where the runs are stored, and what happens when MLflow fails."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import mlflow
from filelock import FileLock
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.tracking import database

Result = TypeVar("Result")
# gives up after a quarter of a minute; with MLflow's own settings it takes minutes
HTTP_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def connect(to_write: bool = False) -> None:
    """Use the MLflow store at MLFLOW_TRACKING_URI, or mlflow.db in the project's folder.

    Args:
        to_write: Whether the command will write to the store.

    Raises:
        InputError: the store is a database that this MLflow cannot use.
    """
    for name, value in HTTP_LIMITS.items():
        os.environ.setdefault(name, value)
    hide_password()
    database.check(uri(), to_write)
    mlflow.set_tracking_uri(uri())


def hide_password() -> None:
    """Move user and password out of the server's address, which MLflow prints after every run."""
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parts.scheme in ("http", "https") and parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        os.environ["MLFLOW_TRACKING_URI"] = without_password(parts.geturl())


@contextmanager
def other_store(address: str | None) -> Iterator[None]:
    """Use another MLflow store in the block; with None the usual one."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    if address:
        os.environ["MLFLOW_TRACKING_URI"] = address
    try:
        yield
    finally:
        if address:
            os.environ.pop("MLFLOW_TRACKING_URI")
            os.environ |= {"MLFLOW_TRACKING_URI": before} if before else {}
            connect()


def uri() -> str:
    """Return the address of the MLflow store."""
    own = paths.sqlite_address(paths.project() / "mlflow.db")
    return os.environ.get("MLFLOW_TRACKING_URI") or own


def public_uri() -> str:
    """Return the address of the MLflow store for messages: without a password."""
    return without_password(uri())


def without_password(address: str) -> str:
    """Return an address without the user and password it may contain."""
    return re.sub(r"//[^/@]*@", "//", address)


def experiment_id(name: str) -> str:
    """Return the id of an experiment, to write to it; create it if it does not exist.

    Raises:
        InputError: it was deleted.
    """
    # Several processes that start on a new SQLite file would all try to create its tables.
    with FileLock(paths.project() / "mlflow.db.lock"):
        connect(to_write=True)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage == LifecycleStage.DELETED:
                raise InputError(
                    f"The MLflow experiment {name} was deleted: `mlflow experiments restore "
                    f"--experiment-id {experiment.experiment_id}`, or choose another name with "
                    f"tracking.experiment."
                )
            return str(experiment.experiment_id)
        # the UI then opens on training runs, not on the pages for language models
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, artifact_location(), tags=kind))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # another machine created it on the same server at the same moment
            return str(client.get_experiment_by_name(name).experiment_id)


def artifact_location() -> str | None:
    """Return where a new experiment stores its files; None where the server decides that.

    Without a server it is the project's folder. MLflow's default is the current folder, which is
    a temporary copy in a queued experiment of DVC.
    """
    served = urlsplit(uri()).scheme in ("http", "https", "databricks")
    return None if served else (paths.project() / "mlartifacts").as_uri()


def is_missing(error: MlflowException) -> bool:
    """Return whether MLflow answered that something does not exist: not that it may not be read."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def is_refusal(error: Exception) -> bool:
    """Return whether MLflow answered and refused (status 4xx), so that a repeat would not help."""
    return isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500


@contextmanager
def require_mlflow(to_write: bool = False) -> Iterator[None]:
    """Connect, and turn an MLflow error in the block into one message; a repeat then helps.

    Args:
        to_write: Whether the command will write to the store.
    """
    try:
        connect(to_write)
        yield
    except MlflowException as error:
        raise InputError(
            refusal(error)
            if is_refusal(error)
            else f"MLflow at {public_uri()} failed or does not answer ({describe(error)}). Nothing "
            f"is lost: run the same command again when MLflow works."
        ) from error


def log_or_continue(call: Callable[[], Result]) -> Result | None:
    """Return the result of a call; if MLflow does not answer, print that and return None.

    Raises:
        InputError: MLflow answered and refused, so that trying again would not help.
    """
    try:
        return call()
    except InputError:
        raise
    except Exception as error:
        if is_refusal(error):
            raise InputError(refusal(error)) from error
        print(
            f"MLflow at {public_uri()} failed or does not answer ({describe(error)}). Continuing "
            f"without it: what is missing is logged at the end.",
            flush=True,
        )
        return None


def refusal(error: Exception) -> str:
    """Return the message for a request that MLflow refused."""
    return (
        f"MLflow at {public_uri()} refuses the request ({describe(error)}). Nothing is lost. Check "
        f"MLFLOW_TRACKING_URI, user, password and permissions, then run the same command again."
    )


def describe(error: BaseException) -> str:
    """Return the type and the message of an exception, short enough for a tag."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= 500 else f"{text[:499]}…"
