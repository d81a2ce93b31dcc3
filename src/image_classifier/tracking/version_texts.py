"""What MLflow has to read about a registered version: its model card, and its report."""

import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from image_classifier.project import paths
from image_classifier.tracking import runs
from image_classifier.tracking.registry import Version


def model_card(version: Version) -> str:
    """Return the model card, which is the version's description; empty for one without."""
    found = mlflow.MlflowClient().get_model_version(version.name, version.version)
    return runs.plain(found.description or "")


def report(version: Version) -> str | None:
    """Return the report of the evaluation, as HTML; None if the version's run does not have it."""
    place = f"runs:/{version.run_id}/evaluation/{paths.REPORT_PAGE.name}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = mlflow.artifacts.download_artifacts(place, dst_path=folder)
            return Path(file).read_text(encoding="utf-8")
        except (MlflowException, OSError):
            return None
