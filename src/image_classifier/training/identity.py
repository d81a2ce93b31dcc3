"""What identifies a training: the digest of everything that decides its weights."""

import hashlib
import json
from pathlib import Path

from image_classifier.config.schema import Config, PretrainedModel
from image_classifier.data.dataset import PreparedDataset
from image_classifier.project import digests

SECTIONS = {"image", "augmentation", "model", "optimizer", "training"}  # decide the weights


def job_key(config: Config, dataset: PreparedDataset) -> str:
    """Return the SHA-256 of a training's settings and data: jobs with the same key are equal."""
    settings = config.model_dump(include=SECTIONS)
    known: list[object] = [settings, dataset.classes, dataset.digest]
    if isinstance(config.model, PretrainedModel):
        from image_classifier.training import backbones  # imports TensorFlow

        known.append(backbones.weights_digest(config.model))
    text = json.dumps(known, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def training_key(job_key: str) -> str:
    """Return a digest of all that decides the weights to the last bit: 32 hexadecimal digits.

    Besides the `job_key`: versions of TensorFlow and Keras, the number of threads, and the source
    of this package's folder `training`.
    """
    import keras  # imports TensorFlow
    import tensorflow as tf

    from image_classifier.training import devices

    code = digests.of_folder(Path(__file__).parent)
    text = f"{job_key} {tf.__version__} {keras.__version__} {devices.threads()} {code}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
