"""The training of one model, from prepared images to a registered version.

Imports TensorFlow and MLflow, which take seconds: train.py checks its input before it comes here.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from image_classifier import (
    batches,
    classifier,
    decision,
    devices,
    metrics,
    models,
    paths,
    plots,
    sweep_runs,
    tracking,
)
from image_classifier.checkpoint import BestCheckpoint
from image_classifier.config import Config, Training
from image_classifier.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.stopping import MedianStopping

History = Mapping[str, Sequence[float]]


def train(
    config: Config, dataset: PreparedDataset, output: Path, name: str, overrides: Sequence[str]
) -> float:
    """Train one model; keep, describe and register the checkpoint of its best epoch.

    Args:
        config: All settings.
        dataset: The prepared images.
        output: The folder for the model and what describes it.
        name: The MLflow run's name.
        overrides: How the settings differ from conf/, to tell a sweep's jobs apart.

    Returns:
        The best epoch's value of `training.monitor`.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    devices.check(config.training)
    with tracking.training_run(config, dataset, name, overrides) as run_id:
        device = devices.describe()
        print(device)
        print(f"classes: {dict(enumerate(dataset.classes))}, image shape: {config.image.shape}")
        strategy = devices.configure(config.training)
        tracking.log_tags({"device": device, "threads": devices.threads()})
        tracking.log_settings(config)

        with strategy.scope():
            model = compiled_model(config, dataset)
        model.summary()
        output.mkdir(parents=True, exist_ok=True)
        classifier.write_settings(output / paths.MODEL, classifier_settings(config, dataset))
        fit_started = time.perf_counter()
        history = fit(model, config, dataset, output / paths.MODEL / classifier.WEIGHTS)
        fit_seconds = time.perf_counter() - fit_started
        best_epoch, best = best_of(history, config.training)

        best_model = decision.with_decision(
            classifier.Classifier.load(output / paths.MODEL), dataset, config.evaluation
        )
        classifier.write_settings(output / paths.MODEL, best_model.settings)
        validation = metrics.measure(best_model, dataset, "validation").figures
        figures = {"best_epoch": best_epoch, **validation}
        (output / paths.METRICS).write_text(json.dumps(figures, indent=2) + "\n")
        write_history(history, output / paths.HISTORY)
        plots.learning_curves(history, best_epoch, output / paths.CURVES)
        write_summary(model, output / paths.SUMMARY)

        tracking.log_metrics(validation, "best_val_", len(history["loss"]))
        tracking.log_metrics({"checkpoint_epoch": best_epoch, "parameters": model.count_params()})
        tracking.log_tags({"weights_sha256": classifier.weights_digest(best_model.model)})
        tracking.log_files(
            [output / paths.CURVES, output / paths.HISTORY, output / paths.SUMMARY], "training"
        )
        tracking.log_files(
            [paths.PICTURE_GRID, paths.MANIFEST, paths.LEFT_OUT, paths.COPIES, paths.FETCHED],
            "data",
        )
        registered = store(config, dataset, output, validation)
        tracking.log_metrics(
            {
                "fit_seconds": fit_seconds,
                "train_seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu_started,
                "stored_bytes": sum(
                    path.stat().st_size for path in output.rglob("*") if path.is_file()
                ),
            }
        )
    print(
        f"Best epoch {best_epoch}: {config.training.monitor} {best:.4f}. "
        f"MLflow run {run_id}, {registered}."
    )
    return best


def store(
    config: Config, dataset: PreparedDataset, output: Path, validation: Mapping[str, float]
) -> str:
    """Store the model as `tracking.register_models` says; return in words what became of it."""
    folder = output / paths.MODEL
    if config.tracking.register_models == "none":
        return "not stored"
    if config.tracking.register_models == "best":
        tracking.store_for_later(dataset, folder, validation)
        return "stored"
    version = tracking.register(config, dataset, folder, validation)
    record = {"run_id": version.run_id, "name": version.name, "version": version.version}
    (output / paths.RUN).write_text(json.dumps(record, indent=2) + "\n")
    return f"registered as {version.uri}"


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


def fit(model: keras.Model, config: Config, dataset: PreparedDataset, checkpoint: Path) -> History:
    """Fit a compiled model; the best epoch's weights are in `checkpoint` afterwards.

    Returns:
        `loss`, `accuracy`, `val_loss` and `val_accuracy`, one value an epoch.

    Raises:
        InputError: the training diverged, so there is no best epoch.
    """
    training = config.training
    callbacks: list[keras.callbacks.Callback] = []
    if training.stop_below_median:
        callbacks = [MedianStopping(sweep_runs.best_so_far_curves(training.monitor), training)]
    empty = models.build(config.model, config.image.shape, len(dataset.classes))
    result = model.fit(
        batches.training_batches(
            dataset,
            config.augmentation,
            training.batch_size,
            training.seed,
            range(training.epochs),
        ),
        steps_per_epoch=batches.steps_per_epoch(len(dataset.indices("train")), training.batch_size),
        epochs=training.epochs,
        validation_data=batches.plain_batches(
            dataset, dataset.indices("validation"), training.batch_size
        ),
        callbacks=[
            BestCheckpoint(empty, checkpoint, training),
            keras.callbacks.EarlyStopping(
                training.monitor, mode=training.mode, patience=training.patience
            ),
            *callbacks,
            EpochLogger(training),
        ],
        shuffle=False,  # the batches are shuffled already
        verbose=1 if sys.stdout.isatty() else 2,  # a bar on a terminal, else a line an epoch
    )
    if not checkpoint.is_file():
        raise InputError(
            f"{training.monitor} was not a number in any epoch: the training diverged. Lower "
            f"optimizer.learning_rate={config.optimizer.learning_rate:g}."
        )
    return dict(result.history)


class EpochLogger(keras.callbacks.Callback):
    """Sends each epoch to MLflow, and with it the figures of the best epoch so far."""

    def __init__(self, training: Training) -> None:
        """Take the monitor that says which epoch is best."""
        super().__init__()
        self.training = training
        self.history: dict[str, list[float]] = {}
        self.stored: list[Callable[[], None]] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Send the epoch; the next one does not wait for the answer."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        best = best_of(self.history, self.training)[0] - 1
        figures = {  # the best first: the UI opens on the metric that came first
            "best_val_accuracy": self.history["val_accuracy"][best],
            "best_val_loss": self.history["val_loss"][best],
            "train_accuracy": logs["accuracy"],
            "train_loss": logs["loss"],
            "val_accuracy": logs["val_accuracy"],
            "val_loss": logs["val_loss"],
        }
        self.stored.append(tracking.log_epoch(epoch + 1, figures))

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait until all is stored; raises what went wrong."""
        for stored in self.stored:
            stored()


def best_of(history: History, training: Training) -> tuple[int, float]:
    """Return the best epoch, counted from 1, and its value of `training.monitor`."""
    values = np.array(history[training.monitor])
    if np.isnan(values).all():
        return 1, float("nan")
    best = int(np.nanargmax(values) if training.mode == "max" else np.nanargmin(values))
    return best + 1, float(values[best])


def classifier_settings(config: Config, dataset: PreparedDataset) -> classifier.Settings:
    """Return what belongs to the weights; threshold and temperature are chosen after training."""
    return classifier.Settings(
        classes=dataset.classes,
        threshold=0.5,
        temperature=1.0,
        height=config.image.height,
        width=config.image.width,
        channels=config.image.channels,
        decoder=classifier.decoder_digest(),
    )


def write_summary(model: keras.Model, path: Path) -> None:
    """Write Keras's table of the layers."""
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    path.write_text("\n".join(lines) + "\n")


def write_history(history: History, path: Path) -> None:
    """Write one row an epoch, epochs counted from 1."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *history])
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=1):
            writer.writerow([epoch, *values])
