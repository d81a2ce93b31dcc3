"""The files of a model in MLflow's store: sent, and read back as they are there."""

import base64
import importlib.metadata
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas
from PIL import Image

from image_classifier import digests
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.schema import Serving
from image_classifier.tracking import connection

# what a stored model runs on
REQUIREMENTS = ("tensorflow", "mlflow", "numpy", "pillow", "pandas", "pybase64", "scipy", "joblib")


def store_model(dataset: PreparedDataset, folder: Path) -> tuple[str, str]:
    """Store a classifier's folder with the open run.

    Args:
        dataset: Gives a validation image as the model's input example.
        folder: What `Classifier.load` reads.

    Returns:
        The stored model's address, and the SHA-256 of its files as they came back from the store.

    Raises:
        InputError: they did not come back as they were sent.
    """
    from image_classifier.classifier import read_settings

    # imports TensorFlow, which rollback does without
    from image_classifier.serving import served_model

    settings = read_settings(folder)
    picture = io.BytesIO()  # of the prepared image: the file may have gone since
    pixels = dataset.images[dataset.indices("validation")[0]]
    Image.fromarray(pixels.squeeze()).save(picture, "PNG")
    example = base64.b64encode(picture.getvalue()).decode()
    package = Path(served_model.__file__).parents[1]
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=served_model.__file__,
        artifacts={"classifier": str(folder)},
        code_paths=[str(package)],
        model_config=Serving().of_images,
        signature=served_model.signature(settings),
        input_example=pandas.DataFrame({"image": [example]}),
        # given, because MLflow takes seconds to infer them
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
    )
    with stored_files(info.model_uri) as stored:
        sent = {folder: stored / "artifacts" / folder.name, package: stored / "code" / package.name}
        for ours, theirs in sent.items():
            if digests.of_folder(ours) != digests.of_folder(theirs):
                raise InputError(
                    f"{ours} is not the same in the store as it is here: "
                    f"{connection.public(connection.uri())} is damaged or full. Look at its disk, "
                    f"then run this again."
                )
        return str(info.model_uri), digests.of_folder(stored)


@contextmanager
def stored_files(address: str) -> Iterator[Path]:
    """Yield a folder with a copy of a stored model's files; it is removed afterwards.

    A copy of a local store, too: nobody else can change what was verified before it is loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(mlflow.artifacts.download_artifacts(address, dst_path=folder))
        # what MLflow adds to a download, and what Python added when it ran the code in the store
        (files / "registered_model_meta").unlink(missing_ok=True)
        for compiled in [*files.rglob("__pycache__")]:
            shutil.rmtree(compiled)
        yield files
