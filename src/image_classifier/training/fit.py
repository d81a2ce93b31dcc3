"""Builds a model for training, fits it, and takes out the model of its best epoch."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.config.schema import Config, Optimizer, Training
from image_classifier.data.dataset import PreparedDataset
from image_classifier.training import architectures, batches, devices
from image_classifier.training.compilation import compile_for_training
from image_classifier.training.epoch_file import assign_weights, restore
from image_classifier.training.features import cached_features
from image_classifier.training.phases import Phase, phases
from image_classifier.training.progress import Progress


def model_of(
    config: Config,
    dataset: PreparedDataset,
    phase: Phase,
    folder: Path,
    progress: Progress,
    first_weights: Sequence[npt.NDArray[np.float32]] | None = None,
) -> keras.Model:
    """Return the model to fit in a phase, in the state in which the last epoch left it.

    Args:
        config: All settings.
        dataset: The prepared images.
        phase: What is fitted.
        folder: Contains the files of the epochs.
        progress: The epochs so far.
        first_weights: All weights before the first epoch; None: random, or those of the backbone.
    """
    model = compiled_model(config, dataset, phase)
    if progress.epochs > phase.first:
        restore(model, folder, config.training)
    elif progress.epochs:  # the first epoch of this phase
        assign_best(model, config, dataset, folder, progress)
    elif first_weights is not None:
        model.set_weights(first_weights)
    return model


def compiled_model(config: Config, dataset: PreparedDataset, phase: Phase) -> keras.Model:
    """Return the model to fit in a phase, with its optimizer, loss and metrics."""
    training, optimizer, model = config.training, config.optimizer, config.model
    classes, head_factor = len(dataset.classes), 1.0
    steps = batches.steps_per_epoch(len(dataset.indices("train")), training.images_per_step)
    features = cached_features(config, dataset) if phase.name == "head" else None
    # whether the features had to be computed, and which phase ran before, changes no weight
    keras.utils.set_random_seed(training.seed)
    if features is not None:
        built = architectures.head(model, features.shape[1], classes)
    else:
        precision: Literal["mixed_float16", "float32"] = (
            "mixed_float16" if training.mixed_precision else "float32"
        )
        built = architectures.build(model, config.image.shape, classes, precision)
    if phase.name == "fine-tuning":
        top = training.fine_tune == "top"
        architectures.train_top(built, training.fine_tune_blocks if top else None)
        optimizer = fine_tuning_optimizer(config)
        head_factor = training.fine_tune_head_factor
    compile_for_training(
        built,
        optimizer,
        training,
        steps * (phase.last - phase.first),
        head_factor=head_factor,
        xla=devices.compiles_with_xla(training),
        # a step of the last layer alone takes less time than the way to Python and back
        steps_at_once=steps if phase.name == "head" else 1,
    )
    return built


def fine_tuning_optimizer(config: Config) -> Optimizer:
    """Return the optimizer of the second phase: its rate rises in the first epoch, then falls."""
    epochs = config.training.fine_tune_epochs_number
    return config.optimizer.model_copy(
        update={
            "learning_rate": config.training.fine_tune_learning_rate,
            "schedule": "cosine",
            "warm_up": 1 / epochs if epochs > 1 else 0.5,
        }
    )


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
    phase: Phase,
    progress: Progress,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fit a compiled model, from the last finished epoch to the end of a phase.

    Args:
        model: With the weights and the optimizer of the last epoch in `progress`.
        dataset: The prepared images.
        config: All settings.
        phase: What is fitted.
        progress: The epochs of earlier attempts.
        callbacks: Called in this order; a `Checkpoint` among them adds the epochs to `progress`.
    """
    if phase.name != "whole" and progress.epochs == phase.first:
        print(f"{phase.name}: epochs {phase.first + 1} to {phase.last}.")
    training_data, validation_data = _data(dataset, config, phase, progress)
    if config.optimizer.average is not None:
        callbacks = [keras.callbacks.SwapEMAWeights(), *callbacks]  # validates the average
    model.fit(
        training_data,
        steps_per_epoch=batches.steps_per_epoch(
            len(dataset.indices("train")), config.training.images_per_step
        ),
        initial_epoch=progress.epochs,
        epochs=phase.last,
        validation_data=validation_data,
        callbacks=list(callbacks),
        shuffle=False,  # the batches are shuffled already
        verbose=1 if sys.stdout.isatty() else 2,  # a progress bar on a terminal, else lines
    )


def _data(
    dataset: PreparedDataset, config: Config, phase: Phase, progress: Progress
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    size, epochs = config.training.images_per_step, range(progress.epochs, phase.last)
    validation = dataset.indices("validation")
    if phase.name == "head":
        features = cached_features(config, dataset)
        return (
            batches.feature_batches(dataset, features, config, epochs),
            batches.plain_feature_batches(dataset, features, validation, size),
        )
    return (
        batches.training_batches(dataset, config, epochs),
        batches.plain_batches(dataset, validation, size),
    )


def best_model(
    config: Config, dataset: PreparedDataset, folder: Path, progress: Progress
) -> keras.Model:
    """Return the model of the best epoch of all phases, in float32 and without an optimizer.

    Args:
        config: All settings.
        dataset: The prepared images.
        folder: Contains the files of the epochs; see `Checkpoint`.
        progress: Of a training with at least one epoch whose loss is a number.
    """
    model = architectures.build(config.model, config.image.shape, len(dataset.classes))
    assign_best(model, config, dataset, folder, progress)
    return model


def assign_best(
    model: keras.Model,
    config: Config,
    dataset: PreparedDataset,
    folder: Path,
    progress: Progress,
) -> None:
    """Give a whole model the weights of the best epoch, which may be one of the head alone."""
    epoch = progress.best(config.training)[0]
    first = phases(config, progress)[0]
    if first.name != "head" or epoch > first.last:
        assign_weights(model, folder, epoch)
        return
    output = model.get_layer("probability")
    head = architectures.head(config.model, int(output.kernel.shape[0]), len(dataset.classes))
    assign_weights(head, folder, epoch)
    output.set_weights(head.get_layer("probability").get_weights())
