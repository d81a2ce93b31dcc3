"""Builds a model for training, fits it, and takes out the model of its best epoch."""

import sys
from collections.abc import Sequence
from pathlib import Path

import keras

from image_classifier.config.schema import Config, Training
from image_classifier.data.dataset import PreparedDataset
from image_classifier.training import architectures, batches, devices
from image_classifier.training.epoch_file import assign_weights
from image_classifier.training.progress import Progress


def compiled_model(config: Config, dataset: PreparedDataset) -> keras.Model:
    """Return the model to train, with its optimizer, loss and metrics."""
    model = architectures.build(
        config.model,
        config.image.shape,
        len(dataset.classes),
        "mixed_float16" if config.training.mixed_precision else "float32",
    )
    steps = batches.steps_per_epoch(len(dataset.indices("train")), config.training.batch_size)
    architectures.compile_for_training(
        model,
        config.optimizer,
        steps * config.training.epochs,
        devices.compiles_with_xla(config.training),
    )
    return model


def stoppers(training: Training) -> list[keras.callbacks.Callback]:
    """Return the callbacks that stop a training: when the loss is NaN, and when patience ends."""
    return [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(
            training.monitor, mode=training.mode, patience=training.patience
        ),
    ]


def fit(
    model: keras.Model,
    dataset: PreparedDataset,
    config: Config,
    progress: Progress,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit a compiled model, from the last finished epoch to the end of the training.

    Args:
        model: With the weights and the optimizer of the last epoch in `progress`.
        dataset: The prepared images.
        config: All settings.
        progress: The epochs of earlier attempts.
        callbacks: Called in this order; a `Checkpoint` among them adds the epochs to `progress`.
    """
    training = config.training
    if progress.done(training):
        print(f"This training is finished already, at epoch {progress.epochs}: nothing to train.")
        return
    if progress.epochs:
        print(f"Continuing an earlier attempt after epoch {progress.epochs}.")
    train, validation = dataset.indices("train"), dataset.indices("validation")
    model.fit(
        batches.training_batches(
            dataset,
            config.augmentation,
            training.batch_size,
            training.seed,
            range(progress.epochs, training.epochs),
        ),
        steps_per_epoch=batches.steps_per_epoch(len(train), training.batch_size),
        initial_epoch=progress.epochs,
        epochs=training.epochs,
        validation_data=batches.plain_batches(dataset, validation, training.batch_size),
        callbacks=list(callbacks),
        shuffle=False,  # the batches are shuffled already
        verbose=1 if sys.stdout.isatty() else 2,  # a progress bar on a terminal, else lines
    )


def best_model(
    config: Config, dataset: PreparedDataset, folder: Path, progress: Progress
) -> keras.Model:
    """Return the model of the best epoch, in float32 and without an optimizer.

    Args:
        config: All settings.
        dataset: The prepared images.
        folder: Contains the files of the epochs; see `Checkpoint`.
        progress: Of a training with at least one epoch whose loss is a number.
    """
    model = architectures.build(config.model, config.image.shape, len(dataset.classes))
    assign_weights(model, folder, progress.best(config.training)[0])
    return model
