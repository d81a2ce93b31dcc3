"""prune: deletes the models of a sweep's jobs that lost; their metrics stay.

    image-classifier prune SWEEP_RUN_ID

Lists what it would delete, and asks. The best job keeps its model, and so does every job whose
version has an alias such as champion, or which is the best job of another sweep. Jobs whose runs
were deleted in MLflow are left alone.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image_classifier.errors import InputError
from image_classifier.project.text import counted

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

NOT_PRUNED = ". It is the best job of the sweep, so nothing was pruned"


@dataclass(frozen=True)
class Job:
    """A job of a sweep that has a model.

    Attributes:
        run: Its run.
        models: Its stored models.
        versions: The versions they are registered as.
        kept: Why it keeps them, or empty.
    """

    run: "Run"
    models: "list[LoggedModel]"
    versions: "list[ModelVersion]"
    kept: str

    @property
    def megabytes(self) -> float:
        """The size of its models."""
        return len(self.models) * float(self.run.data.metrics.get("stored_bytes", 0)) / 1e6

    def __str__(self) -> str:
        """Return its name, its versions, and their size or why they are kept."""
        versions = ", ".join(f"{each.name}/{each.version}" for each in self.versions)
        return (
            f"  {self.run.info.run_id}  {self.run.info.run_name}  {versions or 'not registered'}"
            f"  {self.kept or f'{self.megabytes:.1f} MB'}"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("sweep", metavar="SWEEP_RUN_ID", help="the MLflow run of the sweep")
    parser.add_argument("--yes", action="store_true", help="delete without asking, for scripts")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code: 1 if it was not confirmed.

    Raises:
        InputError: the run is not a finished sweep, or there is nobody to ask.
    """
    from image_classifier.tracking import connection  # imports MLflow

    with connection.require_mlflow(to_write=True):
        return prune(arguments.sweep, ask=not arguments.yes)


def prune(sweep: str, ask: bool) -> int:
    """List the jobs of a sweep, and delete the models of those that lost; return the exit code."""
    jobs = jobs_of(sweep)
    losers = [job for job in jobs if not job.kept]
    for title, listed in (
        ("Keeps its model:", [job for job in jobs if job.kept]),
        ("Loses its model (metrics, settings and curves stay):", losers),
    ):
        if listed:
            print("\n".join([title, *map(str, listed)]))
    total = counted(sum(len(job.models) for job in losers), "model")
    size = f"{sum(job.megabytes for job in losers):.1f} MB"
    if losers and ask:
        if not sys.stdin.isatty():
            raise InputError(f"nothing is deleted. Add --yes to delete {total}, {size}.")
        if input(f"Delete {total}, {size}? This cannot be undone. [y/N] ").strip().lower() != "y":
            return 1
    for job in losers:
        delete(job)
    print(f"{total} deleted, {size}.")
    return 0


def jobs_of(parent: str) -> list[Job]:
    """Return the jobs of a sweep that have a model.

    Raises:
        InputError: the run is not a finished sweep, or its best job was deleted.
    """
    import mlflow

    from image_classifier.sweeps import parent_run
    from image_classifier.tracking import connection, runs

    best = runs.record_of(parent).tags.get("best.run_id")
    if best is None:
        raise InputError(
            f"Run {parent} is not a finished sweep in MLflow at {connection.public_uri()}. Give "
            f"the run id that `image-classifier train --multirun` prints after `Sweep`."
        )
    runs.find(best, to_write=True, otherwise=NOT_PRUNED)  # it would be the last model
    children = parent_run.children(parent)
    if deleted := parent_run.deleted_jobs(parent):
        print(
            f"{len(deleted)} of the {len(deleted) + len(children)} jobs were deleted in MLflow: "
            f"their models stay."
        )
    client = mlflow.MlflowClient()
    jobs = []
    for child in children:
        run_id = child.info.run_id
        found = client.search_model_versions(f"run_id = '{run_id}'")
        versions = [client.get_model_version(each.name, each.version) for each in found]
        models = client.search_logged_models(
            [child.info.experiment_id], f"source_run_id = '{run_id}'"
        )
        aliases = [alias for version in versions for alias in version.aliases]
        if run_id == best:
            kept = "best job"
        elif parent_run.is_best_of_a_sweep(child):
            kept = "best job of another sweep"
        else:
            kept = ", ".join(f"alias {alias}" for alias in aliases)
        if models or versions:
            jobs.append(Job(child, list(models), versions, kept))
    return jobs


def delete(job: Job) -> None:
    """Delete the versions of a job, and the files of its models."""
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = mlflow.MlflowClient()
    for version in job.versions:
        client.delete_model_version(version.name, version.version)
    for model in job.models:
        get_artifact_repository(model.artifact_location).delete_artifacts()
        client.delete_logged_model(model.model_id)
