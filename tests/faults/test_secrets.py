"""A password in MLFLOW_TRACKING_URI is kept only in the environment."""

import secrets
from pathlib import Path

import mlflow

from conftest import SHRUNK, Project, copy_of

PASSWORD = secrets.token_hex(8)


def files_with_password(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if PASSWORD.encode() in path.read_bytes()]


def test_a_password_of_the_tracking_server_is_never_printed_or_stored(
    project: Project, tracking_server: str, tmp_path: Path
):
    copy = copy_of(project, tmp_path / "project")
    address = tracking_server.replace("//", f"//anna:{PASSWORD}@")
    sweep = ["train", "--multirun", *SHRUNK, "training.epochs=1", "training.seed=201"]
    output = copy.command(*sweep, MLFLOW_TRACKING_URI=address)
    assert "1 jobs finished" in output
    output += copy.command(
        "predict", "data/test", code=1, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        MLFLOW_TRACKING_URI=f"http://anna:{PASSWORD}@127.0.0.1:9",
    )  # fmt: skip
    assert PASSWORD not in output
    assert not files_with_password(copy.folder)

    client = mlflow.MlflowClient(tracking_server)
    experiment = client.get_experiment_by_name("image-classifier")
    runs = client.search_runs([experiment.experiment_id])
    assert PASSWORD not in str([run.to_dictionary() for run in runs])
    for number, run in enumerate(runs):
        (tmp_path / str(number)).mkdir()
        client.download_artifacts(run.info.run_id, "", str(tmp_path / str(number)))
    models = client.search_registered_models()
    for model in models:
        for version in client.search_model_versions(f"name = '{model.name}'"):
            mlflow.set_tracking_uri(tracking_server)
            mlflow.artifacts.download_artifacts(
                f"models:/{version.name}/{version.version}", dst_path=str(tmp_path / "model")
            )
    assert not files_with_password(tmp_path)
