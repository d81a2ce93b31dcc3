"""Trainings that repeat another one with another seed or fold."""

import mlflow
from mlflow.entities import Run

from image_classifier.evaluation.spread import Result
from image_classifier.tracking import runs


def result_of(run: Run, metric: str) -> Result:
    """Return the value of a metric that a training reached, with its fold and seed."""
    fold = run.data.params["training.fold"]
    return Result(
        None if fold == "None" else int(fold),
        int(run.data.params["training.seed"]),
        float(run.data.metrics[metric]),
    )


def runs_of_recipe(run_id: str, metric: str) -> list[Run]:
    """Return the trainings that differ from a run in fold and seed only, and have a metric.

    The run itself is among them; of several with the same fold and seed, the oldest counts.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    recipe = run.data.tags["recipe_key"]
    found = client.search_runs(
        [run.info.experiment_id],
        f"attributes.status = 'FINISHED' AND tags.recipe_key = '{recipe}'",
        order_by=["attributes.start_time DESC"],
    )
    known = [
        other
        for other in (run, *found)
        if metric in other.data.metrics and runs.PRUNED not in other.data.tags
    ]
    varied = ("training.fold", "training.seed")
    return list(
        {tuple(other.data.params[name] for name in varied): other for other in known}.values()
    )


def same_recipe(run_id: str, metric: str) -> list[Result]:
    """Return the results of the trainings of `runs_of_recipe`."""
    return [result_of(run, metric) for run in runs_of_recipe(run_id, metric)]
