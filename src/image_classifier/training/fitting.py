"""The fit of a model: its batches, callbacks, and what MLflow gets of every epoch."""

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import keras

from image_classifier.data.dataset import PreparedDataset
from image_classifier.schema import Config, Training
from image_classifier.tracking import connection, runs, sweeps
from image_classifier.training import batches, devices, models
from image_classifier.training.checkpoint import Checkpoint, Progress, assign_weights
from image_classifier.training.stopping import MedianStopping


def compiled_model(config: Config, dataset: PreparedDataset) -> keras.Model:
    """Return the model to train, with its optimizer, loss and metrics."""
    model = models.build(
        config.model,
        config.image.shape,
        len(dataset.classes),
        "mixed_float16" if config.training.mixed_precision else "float32",
    )
    steps = batches.steps_per_epoch(len(dataset.indices("train")), config.training.batch_size)
    models.compile_for_training(
        model,
        config.optimizer,
        steps * config.training.epochs,
        devices.compiles_with_xla(config.training),
    )
    return model


def fit(
    model: keras.Model,
    config: Config,
    dataset: PreparedDataset,
    folder: Path,
    progress: Progress,
    run_id: str | None = None,
    costs: Callable[[], dict[str, float]] = dict,
) -> None:
    """Fit a compiled model, from where earlier attempts left it to its last epoch.

    Args:
        model: With the weights and the optimizer of the last epoch in `progress`.
        config: All settings.
        dataset: The prepared images.
        folder: For the file of each epoch; see `Checkpoint`.
        progress: What earlier attempts did; what is done now is added.
        run_id: The MLflow run, or None where MLflow does not answer.
        costs: Returns the seconds spent so far, by kind.
    """
    training = config.training
    if progress.epochs:
        print(
            f"An earlier attempt came to the end of epoch {progress.epochs}: going on from there."
        )
    if progress.done(training):
        return
    stoppers: list[keras.callbacks.Callback] = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping(
            training.monitor, mode=training.mode, patience=training.patience
        ),
    ]
    if training.stop_below_median and run_id:
        curves = connection.attempt(partial(sweeps.best_so_far_curves, training.monitor))
        stoppers.append(MedianStopping(curves or [], training))
    model.fit(
        batches.training_batches(
            dataset,
            config.augmentation,
            training.batch_size,
            training.seed,
            range(progress.epochs, training.epochs),
        ),
        steps_per_epoch=batches.steps_per_epoch(len(dataset.indices("train")), training.batch_size),
        initial_epoch=progress.epochs,
        epochs=training.epochs,
        validation_data=batches.plain_batches(
            dataset, dataset.indices("validation"), training.batch_size
        ),
        callbacks=[
            *stoppers,
            Checkpoint(folder, training, progress, stoppers, costs),
            EpochLogger(run_id, progress, training),
        ],
        shuffle=False,  # the batches are shuffled already
        verbose=1 if sys.stdout.isatty() else 2,  # a bar on a terminal, else a line an epoch
    )


def best_model(
    config: Config, dataset: PreparedDataset, folder: Path, progress: Progress
) -> keras.Model:
    """Return the model of the best epoch, in float32 and without an optimizer.

    Args:
        config: All settings.
        dataset: The prepared images.
        folder: With the files of the epochs; see `Checkpoint`.
        progress: Of a training in which one epoch at least was good for something.
    """
    model = models.build(config.model, config.image.shape, len(dataset.classes))
    assign_weights(model, folder, progress.best(config.training)[0])
    return model


class EpochLogger(keras.callbacks.Callback):
    """Sends each epoch to MLflow while the next one trains.

    An epoch that MLflow does not take is no reason to stop: `log_missing_epochs` sends it later.
    """

    def __init__(self, run_id: str | None, progress: Progress, training: Training) -> None:
        """Take the run, if there is one, and what the epochs are read from."""
        super().__init__()
        self.run_id = run_id
        self.progress = progress
        self.training = training
        self.pool = ThreadPoolExecutor(1)  # MLflow's own queue waits up to a second at the end

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Have the epoch sent."""
        figures = epoch_figures(self.progress, epoch + 1, self.training)
        self.pool.submit(connection.attempt, partial(self._send, epoch + 1, figures))

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait for the epoch that is on its way; those still queued are missing, and sent later."""
        self.pool.shutdown(cancel_futures=True)

    def _send(self, epoch: int, figures: Mapping[str, float]) -> None:
        run_id, self.run_id = self.run_id, None
        if run_id:
            runs.log_epoch(run_id, epoch, figures)
            self.run_id = run_id  # or none of the others is tried


def epoch_figures(progress: Progress, epoch: int, training: Training) -> dict[str, float]:
    """Return what MLflow gets of an epoch, counted from 1, with the best so far."""
    history = {name: values[:epoch] for name, values in progress.history.items()}
    best = max(1, progress.best(training, epoch)[0])
    # the best loss first: the UI's comparison opens on the metric that came first, and of some
    # dozens of validation images accuracy has many ties
    return {
        "best_val_loss": history["val_loss"][best - 1],
        "best_val_accuracy": history["val_accuracy"][best - 1],
        "train_accuracy": history["accuracy"][-1],
        "train_loss": history["loss"][-1],
        "val_accuracy": history["val_accuracy"][-1],
        "val_loss": history["val_loss"][-1],
    }
