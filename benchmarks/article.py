"""The article's way, reimplemented: Keras reads, decodes and augments the files in every epoch."""

from pathlib import Path
from typing import Any

import keras
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.project import paths
from image_classifier.training import architectures
from image_classifier.training.compilation import compile_for_training

BATCH = 32
SIZE = (200, 200)


def generator(subset: str, classes: int) -> Any:
    """Return the article's generator of the `training` or `validation` images.

    Like the article, it also zooms and flips the validation images.
    """
    folder = paths.RAW / "train" if (paths.RAW / "train").is_dir() else paths.RAW
    images = ImageDataGenerator(
        rescale=1 / 255, validation_split=0.2, zoom_range=0.2, horizontal_flip=True
    )
    return images.flow_from_directory(
        folder,
        target_size=SIZE,
        subset=subset,
        batch_size=BATCH,
        class_mode="binary" if classes == 2 else "categorical",
    )


def test_generator(classes: int) -> Any:
    """Return the article's generator of the test images, which only rescales them."""
    return ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        paths.RAW / "test",
        target_size=SIZE,
        batch_size=BATCH,
        class_mode="binary" if classes == 2 else "categorical",
        shuffle=False,
    )


def model(config: Config, dataset: PreparedDataset) -> keras.Model:
    """Return the article's compiled CNN for the images of the generators."""
    built = architectures.build(config.model, config.image.shape, len(dataset.classes))
    inputs = keras.Input(config.image.shape)
    x = inputs
    for layer in built.layers[2:]:  # skips the input and the rescaling: the generators rescale
        x = layer(x)
    result = keras.Model(inputs, x)
    compile_for_training(result, config.optimizer, config.training, 1)
    return result


def callbacks(folder: Path) -> list[keras.callbacks.Callback]:
    """Return the article's callbacks: they save the best model, and stop early."""
    return [
        keras.callbacks.ModelCheckpoint(
            folder / "article.keras", monitor="val_accuracy", mode="max", save_best_only=True
        ),
        keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=20),
    ]
