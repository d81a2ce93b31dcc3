"""What identifies a training: the digest of everything that decides its weights."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from image_classifier.config.schema import Config, PretrainedModel, Training
from image_classifier.data.dataset import PreparedDataset
from image_classifier.project import digests

SECTIONS = {"image", "augmentation", "model", "optimizer", "training"}  # decide the weights


def job_key(config: Config, dataset: PreparedDataset, start_sha256: str = "") -> str:
    """Return the SHA-256 of what a training's result depends on: jobs with the same key are equal.

    That is its settings, its data, the source of this package's folder `training`, the versions of
    TensorFlow and Keras, and the weights it starts from.

    Args:
        config: All settings.
        dataset: The prepared images.
        start_sha256: The digest of the weights of `training.start_from`.
    """
    settings = config.model_dump(include=SECTIONS)
    versions = [version("tensorflow"), version("keras")]
    code = digests.of_folder(Path(__file__).parent)
    known: list[object] = [settings, dataset.classes, dataset.digest, versions, code]
    if isinstance(config.model, PretrainedModel):
        from image_classifier.training import backbones  # imports TensorFlow

        known.append(backbones.weights_digest(config.model))
    if start_sha256:
        known.append(start_sha256)
    text = json.dumps(known, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_key(config: Config, dataset: PreparedDataset, start_sha256: str = "") -> str:
    """Return the `job_key` without seed and fold: trainings with the same key vary by chance."""
    training = config.training.model_copy(update={"seed": 0, "fold": None})
    return job_key(config.model_copy(update={"training": training}), dataset, start_sha256)


def continuation_key(config: Config, dataset: PreparedDataset, start_sha256: str = "") -> str:
    """Return the `training_key` without `training.epochs`: 32 hexadecimal digits.

    Trainings with the same one have the same first epochs, where no epoch depends on their number;
    see `phases.why_not_continued`.
    """
    any_epochs = config.training.model_copy(update={"epochs": 1})
    config = config.model_copy(update={"training": any_epochs})
    return training_key(job_key(config, dataset, start_sha256), any_epochs)


def training_key(job_key: str, training: Training) -> str:
    """Return a digest of all that decides the weights to the last bit: 32 hexadecimal digits.

    Besides the `job_key`, that is the number of threads.
    """
    from image_classifier.training import devices  # imports TensorFlow

    return hashlib.sha256(f"{job_key} {devices.threads(training)}".encode()).hexdigest()[:32]
