"""Exported models in MLflow: files of a version's run, and a tag that names them."""

from pathlib import Path

import mlflow

from image_classifier.tracking import runs
from image_classifier.tracking.registry import Version, tag_version


def log_export(version: Version, folder: Path, form: str) -> str:
    """Store an exported folder with the run of its version; return its address.

    The version gets the tag `export_FORM` with the address.

    Args:
        version: The version that was exported.
        folder: What was exported.
        form: Such as `onnx` or `litert_int8`.

    Raises:
        InputError: the run of the version was deleted.
    """
    runs.find(version.run_id, to_write=True)
    # below the version: a run may have several, with other thresholds
    place = f"export/{version.name}/{version.version}/{form}"
    mlflow.MlflowClient().log_artifacts(version.run_id, str(folder), place)
    address = f"runs:/{version.run_id}/{place}"
    tag_version(version, {f"export_{form}": address})
    return address
