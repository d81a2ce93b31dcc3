"""The features of a frozen backbone, computed once for all trainings with the same images."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from filelock import FileLock
from tqdm import tqdm

from image_classifier.config.schema import Config, PretrainedModel
from image_classifier.data.dataset import PreparedDataset
from image_classifier.project import paths
from image_classifier.project.files import whole_file
from image_classifier.training import backbones, devices

FOLDER = "runs/features"
BATCH = 32


def cached_features(config: Config, dataset: PreparedDataset) -> npt.NDArray[np.float32]:
    """Return the features of the training and validation images; those of other rows are 0.

    They are kept in runs/features. The weights, the images and how these were prepared identify
    them, so all jobs of a sweep share them, at any learning rate.

    Returns:
        float32 array of shape (rows of the manifest, features), on disk.
    """
    model = config.model
    assert isinstance(model, PretrainedModel)
    path = paths.project() / FOLDER / f"{_key(config, dataset, model)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # jobs that run at the same time compute them once
        if not path.is_file():
            _compute(config, dataset, model, path)
    found: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return found


def _compute(config: Config, dataset: PreparedDataset, model: PretrainedModel, path: Path) -> None:
    images = keras.Input(config.image.shape, dtype="uint8")
    backbone = keras.Model(images, backbones.features_of(images, model))
    forward = tf.function(
        lambda batch: backbone(batch, training=False),
        input_signature=[tf.TensorSpec((None, *config.image.shape), tf.uint8)],
    )
    rows = np.sort(np.concatenate([dataset.indices("train"), dataset.indices("validation")]))
    with whole_file(path) as partial, partial.open("wb") as file:
        shape = len(dataset.rows), int(backbone.output_shape[-1])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start, size = file.tell(), 4 * shape[1]
        file.truncate(start + shape[0] * size)
        bar = tqdm(total=len(rows), desc="Computing features", disable=None)
        for first in range(0, len(rows), BATCH):
            chosen = rows[first : first + BATCH]
            values = np.asarray(forward(tf.constant(dataset.images[chosen])), "<f4")
            for row, value in zip(chosen, values, strict=True):
                file.seek(start + int(row) * size)
                file.write(value.tobytes())
            bar.update(len(chosen))
        bar.close()


def _key(config: Config, dataset: PreparedDataset, model: PretrainedModel) -> str:
    known = [
        model.backbone if model.weights is None else "",
        backbones.weights_digest(model),
        config.image.model_dump(),
        dataset.scale,
        dataset.digest,
        tf.__version__,
        devices.threads(),
        config.training.seed if model.weights is None else 0,
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
