"""The article's way, written afresh: files read, decoded and augmented by Keras in every epoch."""

from pathlib import Path
from typing import Any

import keras
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from image_classifier import paths
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.training import architectures

BATCH = 32
SIZE = (200, 200)


def generator(subset: str, classes: int) -> Any:
    """Return the article's generator of the `training` or `validation` images.

    As in the article, the validation images are zoomed and flipped, too.
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
        class_mode="binary" if classes == 2 else "sparse",
    )


def test_generator(classes: int) -> Any:
    """Return the article's generator of the test images, which are only rescaled."""
    return ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        paths.RAW / "test",
        target_size=SIZE,
        batch_size=BATCH,
        class_mode="binary" if classes == 2 else "sparse",
        shuffle=False,
    )


def model(settings: Config, dataset: PreparedDataset) -> keras.Model:
    """Return the article's compiled CNN for the generator's images, which are rescaled already."""
    built = architectures.build(settings.model, settings.image.shape, len(dataset.classes))
    inputs = keras.Input(settings.image.shape)
    x = inputs
    for layer in built.layers[2:]:  # without the input and the rescaling
        x = layer(x)
    result = keras.Model(inputs, x)
    architectures.compile_for_training(result, settings.optimizer, 1)
    return result


def callbacks(folder: Path) -> list[keras.callbacks.Callback]:
    """Return the article's callbacks: the best whole model kept, and early stopping."""
    return [
        keras.callbacks.ModelCheckpoint(
            folder / "article.keras", monitor="val_accuracy", save_best_only=True
        ),
        keras.callbacks.EarlyStopping("val_accuracy", patience=20),
    ]
