"""The settings of a training whose value is `auto`."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from image_classifier.config.schema import Config, Training
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import new_file
from image_classifier.training import batches, devices, fit
from image_classifier.training.phases import fine_tunes, phases

LARGEST = 512  # above, a training of a few thousand images has too few steps
WITHOUT_GPU = 32  # larger batches are not faster on a CPU

# About 200 steps are enough to fine-tune: measured with 215 and 1,229 training images.
FINE_TUNE_STEPS = 200
FINE_TUNE_EPOCHS = (3, 20)


def resolved(config: Config, dataset: PreparedDataset, folder: Path) -> Training:
    """Return the settings of the training with a number for each `auto`.

    Args:
        config: All settings.
        dataset: The prepared images.
        folder: The folder of the training, which keeps the batch size for a restart.

    Raises:
        InputError: the memory is not enough for a single image.
    """
    training = config.training
    if training.batch_size == "auto":
        file = folder / paths.BATCH_SIZE  # a restart must use the same
        if not file.is_file():
            new_file(file).write_text(str(_largest_batch(config, dataset)))
        training = training.with_batch_size(int(file.read_text()))
        print(f"training.batch_size=auto: {training.batch_size} images in a step.")
    if training.fine_tune_epochs == "auto" and fine_tunes(config):
        steps = batches.steps_per_epoch(len(dataset.indices("train")), training.images_per_step)
        epochs = int(np.clip(-(-FINE_TUNE_STEPS // steps), *FINE_TUNE_EPOCHS))
        training = training.model_copy(update={"fine_tune_epochs": epochs})
        print(f"training.fine_tune_epochs=auto: {epochs} epochs.")
    return training


def _largest_batch(config: Config, dataset: PreparedDataset) -> int:
    images = len(dataset.indices("train"))
    size = min(LARGEST if devices.has_gpu() else WITHOUT_GPU, images)
    while size:
        if _fits(config, dataset, size):
            return size
        print(f"training.batch_size=auto: {size} images do not fit into the memory.")
        size //= 2
    raise InputError(
        "training.batch_size=auto: the memory is not enough for one image. Lower image.height and "
        "image.width, or choose a smaller model."
    )


def _fits(config: Config, dataset: PreparedDataset, size: int) -> bool:
    """Return whether a training step with so many images fits into the memory."""
    numbers = {"batch_size": size, "fine_tune_epochs": 1}
    tried = config.model_copy(update={"training": config.training.model_copy(update=numbers)})
    images = np.zeros((size, *config.image.shape), np.uint8)
    labels = batches.targets(dataset, dataset.indices("train")[:size])
    try:
        # the last phase needs the most memory
        model = fit.compiled_model(tried, dataset, phases(tried)[-1])
        if model.input_shape[1:] != images.shape[1:]:  # only the head, on features
            return True
        model.train_on_batch(images, labels)
    except tf.errors.ResourceExhaustedError:
        return False
    finally:
        keras.backend.clear_session()
    return True
