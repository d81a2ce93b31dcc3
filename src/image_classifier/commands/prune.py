"""prune: deletes the models of a sweep's jobs that lost; their metrics stay.

    image-classifier prune SWEEP_RUN_ID

The best job keeps its model, and so does every job whose version has an alias such as champion, or
which is the best job of another sweep. Jobs whose runs were deleted in MLflow are left alone.
"""

import argparse

from image_classifier.errors import InputError

NOT_PRUNED = ". It is the best job of the sweep, so nothing was pruned"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("sweep", metavar="SWEEP_RUN_ID", help="the MLflow run of the sweep")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    from image_classifier.tracking import connection  # imports MLflow

    with connection.require_mlflow(to_write=True):
        models, size = delete_losers(arguments.sweep)
    print(f"{models} models deleted, {size / 1e6:.1f} MB.")
    return 0


def delete_losers(parent: str) -> tuple[int, float]:
    """Delete the models of a sweep's jobs except the best one.

    Returns:
        How many models, and their size in bytes.

    Raises:
        InputError: the run is not a finished sweep, or its best job was deleted.
    """
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from image_classifier.sweeps import parent_run
    from image_classifier.tracking import connection, runs

    best = runs.record_of(parent).tags.get("best.run_id")
    if best is None:
        raise InputError(
            f"Run {parent} is not a finished sweep in MLflow at {connection.public_uri()}. Give "
            f"the run id that `image-classifier train --multirun` prints after `Sweep`."
        )
    runs.find(best, to_write=True, otherwise=NOT_PRUNED)  # it would be the last model
    if deleted := parent_run.deleted_jobs(parent):
        print(
            f"{len(deleted)} of the {len(deleted) + len(parent_run.children(parent))} jobs were "
            f"deleted in MLflow: their models are left."
        )
    client = mlflow.MlflowClient()
    number, size = 0, 0.0
    for child in parent_run.children(parent):
        if child.info.run_id == best or parent_run.is_best_of_a_sweep(child):
            continue
        versions = client.search_model_versions(f"run_id = '{child.info.run_id}'")
        registered = [client.get_model_version(found.name, found.version) for found in versions]
        if any(version.aliases for version in registered):
            continue
        for version in registered:
            client.delete_model_version(version.name, version.version)
        experiment, run_id = child.info.experiment_id, child.info.run_id
        for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            get_artifact_repository(model.artifact_location).delete_artifacts()
            client.delete_logged_model(model.model_id)
            number += 1
            size += child.data.metrics.get("stored_bytes", 0)
    return number, size
