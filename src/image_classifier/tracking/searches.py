"""Searches in an MLflow store whose answers may have many pages."""

from collections.abc import Iterator
from typing import Any

import mlflow
from mlflow.entities import Run, ViewType

PAGE = 1000  # entries in one answer of MLflow


def pages(search: Any, **arguments: Any) -> Iterator[Any]:
    """Yield the entries of all pages of a search.

    Args:
        search: A search function of `MlflowClient`.
        arguments: Its arguments, without the size of a page.
    """
    token = None
    while True:
        page = search(**arguments, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def runs_everywhere(filter_string: str) -> Iterator[Run]:
    """Yield the runs of all experiments that match a filter, deleted ones too."""
    client = mlflow.MlflowClient()
    experiments = pages(client.search_experiments, view_type=ViewType.ALL)
    yield from pages(
        client.search_runs,
        experiment_ids=[experiment.experiment_id for experiment in experiments],
        filter_string=filter_string,
        run_view_type=ViewType.ALL,
    )
