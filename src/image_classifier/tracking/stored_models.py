"""The files of a model in MLflow's store: how they are uploaded, downloaded and compared."""

import base64
import importlib.metadata
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas
from PIL import Image

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.project import digests
from image_classifier.tracking import connection

# the packages that a stored model needs
REQUIREMENTS = (
    "tensorflow", "mlflow", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "pandas",
    "pybase64", "pydantic", "scipy", "scikit-learn", "joblib",
)  # fmt: skip


def store_model(config: Config, dataset: PreparedDataset, folder: Path) -> tuple[str, str]:
    """Upload a classifier's folder with the open run.

    Args:
        config: Gives the limits on images, which are stored with the model.
        dataset: Gives a validation image as the model's input example.
        folder: What `Classifier.load` reads.

    Returns:
        The stored model's address, and the SHA-256 of its files, downloaded again from the store.

    Raises:
        InputError: the downloaded files differ from the uploaded ones.
    """
    # these import TensorFlow, which rollback does not need
    from image_classifier import known_images
    from image_classifier.classifier import read_metadata
    from image_classifier.serving import pyfunc_model

    metadata, known = read_metadata(folder), known_images.read(folder)
    png = io.BytesIO()  # from the prepared image: its file may be deleted by now
    pixels = dataset.images[dataset.indices("validation")[0]]
    Image.fromarray(pixels.squeeze()).save(png, "PNG")
    example = base64.b64encode(png.getvalue()).decode()
    package = Path(pyfunc_model.__file__).parents[1]
    with tempfile.TemporaryDirectory() as place:
        # not as MLflow's model_config, which would also become parameters of the run
        limits = Path(place) / "limits.json"
        limits.write_text(json.dumps(config.serving.image_limits))
        sent = {"classifier": folder.absolute(), "limits": limits}
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=pyfunc_model.__file__,
            # MLflow would take a % in a path for an escape
            artifacts={name: path.as_uri() for name, path in sent.items()},
            code_paths=[str(package)],
            signature=pyfunc_model.signature(metadata, known is not None and bool(known.digests)),
            input_example=pandas.DataFrame({"image": [example]}),
            # listed here because MLflow takes seconds to infer them
            pip_requirements=[
                f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS
            ],
        )
    with stored_files(info.model_uri) as stored:
        both = {folder: stored / "artifacts" / folder.name, package: stored / "code" / package.name}
        for ours, theirs in both.items():
            if digests.of_folder(ours) != digests.of_folder(theirs):
                raise InputError(
                    f"{ours} came back from {connection.public_uri()} with other content: the "
                    f"store is damaged or full. Check its disk, then run the command again."
                )
        return str(info.model_uri), digests.of_folder(stored)


@contextmanager
def stored_files(address: str) -> Iterator[Path]:
    """Yield a temporary folder with a copy of a stored model's files.

    A copy even of a local store: nobody can change the files between the check and the load.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(mlflow.artifacts.download_artifacts(address, dst_path=folder))
        # MLflow adds this file to a download; Python adds folders when it runs code in the store
        (files / "registered_model_meta").unlink(missing_ok=True)
        for compiled in [*files.rglob("__pycache__")]:
            shutil.rmtree(compiled)
        yield files
