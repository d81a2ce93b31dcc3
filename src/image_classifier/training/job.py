"""The training of one model, from prepared images to a registered version.

Imports TensorFlow and MLflow, which take seconds: train.py checks its input before it comes here.
A training that was killed, or that MLflow did not take, is kept: the same command goes on with it.
"""

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras

from image_classifier import classifier, paths, plots
from image_classifier.classifier import Classifier
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.evaluation import decision, metrics
from image_classifier.schema import Config, Training
from image_classifier.tracking import connection, registry, runs
from image_classifier.training import devices, resume
from image_classifier.training.checkpoint import Progress, restore
from image_classifier.training.fitting import best_model, compiled_model, epoch_figures, fit
from image_classifier.training.resume import Unfinished


@dataclass(frozen=True)
class Trained:
    """A training whose last epoch is done; `validation` holds the best epoch's figures.

    These are at the chosen threshold, unlike the epochs' best_val_…, which sweeps compare.
    """

    progress: Progress
    best: Classifier
    validation: Mapping[str, float]


def train(
    config: Config, dataset: PreparedDataset, output: Path, name: str, overrides: list[str]
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

    Raises:
        InputError: the training diverged, or MLflow refused it or did not answer.
    """
    costs = Costs()
    devices.check(config.training)
    print(devices.describe())
    print(f"classes: {dict(enumerate(dataset.classes))}, image shape: {config.image.shape}")
    with resume.claim(resume.key_of(config, dataset)) as unfinished:
        open_training = partial(
            runs.open_training, config, dataset, name, overrides, unfinished.training_id
        )
        run_id = connection.attempt(open_training)
        try:
            trained = fit_and_describe(config, dataset, output, unfinished, run_id, costs)
        except BaseException as error:
            if run_id:
                with suppress(Exception):  # the error itself is what counts
                    runs.close_failed(run_id, error)
            raise
        try:
            run_id = run_id or open_training()
            with runs.open_run(run_id):
                log_missing_epochs(run_id, trained.progress, config.training)
                stored = log_outcome(config, dataset, output, unfinished, trained, costs)
        except Exception as error:
            raise InputError(
                f"the model is trained, but MLflow at {connection.public(connection.uri())} did "
                f"not take all of it ({connection.explain(error)}). Nothing is lost: the same "
                f"command again, once MLflow answers, sends what is missing and trains nothing "
                f"anew. Until then all is kept in {unfinished.folder}."
            ) from error
        if "DVC_STAGE" in os.environ:  # evaluate deletes it: only then has DVC the outputs
            shutil.copyfile(output / paths.RUN, unfinished.folder / paths.RUN)
        else:
            shutil.rmtree(unfinished.folder)
    epoch, value = trained.progress.best(config.training)
    print(
        f"Best epoch {epoch}: {config.training.monitor} {value:.4f}. MLflow run {run_id}, {stored}."
    )
    return value


class Costs:
    """The seconds that a training takes; `earlier` holds those of its earlier attempts."""

    def __init__(self) -> None:
        """Start the clocks."""
        self.earlier: Mapping[str, float] = {}
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.fit_started = self.started

    def start_fit(self) -> None:
        """Start the clock of the fit."""
        self.fit_started = time.perf_counter()

    def spent(self) -> dict[str, float]:
        """Return `train_seconds`, `cpu_seconds` and `fit_seconds`."""
        now = time.perf_counter()
        seconds = {
            "train_seconds": now - self.started,
            "cpu_seconds": time.process_time() - self.cpu_started,
            "fit_seconds": now - self.fit_started,
        }
        return {name: value + self.earlier.get(name, 0) for name, value in seconds.items()}


def fit_and_describe(
    config: Config,
    dataset: PreparedDataset,
    output: Path,
    unfinished: Unfinished,
    run_id: str | None,
    costs: Costs,
) -> Trained:
    """Fit, and write the best model and what describes it to the folder `output`."""
    training = config.training
    strategy = devices.configure(training)
    with strategy.scope():
        model = compiled_model(config, dataset)
        progress = restore(model, unfinished.folder, training)
    costs.earlier = progress.costs
    model.summary()
    costs.start_fit()
    fit(model, config, dataset, unfinished.folder, progress, run_id, costs.spent)
    best_epoch = progress.best(training)[0]
    if not best_epoch:
        shutil.rmtree(unfinished.folder)
        raise InputError(
            f"val_loss was not a number in any epoch: the training diverged. Lower "
            f"optimizer.learning_rate={config.optimizer.learning_rate:g}."
        )

    folder = output / paths.MODEL
    folder.mkdir(parents=True, exist_ok=True)
    best_model(config, dataset, unfinished.folder, progress).save(folder / classifier.WEIGHTS)
    classifier.write_settings(folder, classifier_settings(config, dataset))
    best = decision.with_decision(Classifier.load(folder), dataset, config.evaluation)
    classifier.write_settings(folder, best.settings)
    measured = metrics.measure(best, dataset, "validation").figures
    validation = {f"validation_{name}": value for name, value in measured.items()}
    figures = {"best_epoch": best_epoch, **validation}
    (output / paths.METRICS).write_text(json.dumps(figures, indent=2) + "\n")
    write_history(progress, output / paths.HISTORY)
    plots.learning_curves(progress.history, best_epoch, output / paths.CURVES)
    write_summary(model, output / paths.SUMMARY)
    return Trained(progress, best, validation)


def log_missing_epochs(run_id: str, progress: Progress, training: Training) -> None:
    """Log the epochs that MLflow has not got, for want of an answer or because of a kill."""
    logged = runs.logged_epochs(run_id)
    for epoch in range(1, progress.epochs + 1):
        if epoch not in logged:
            runs.log_epoch(run_id, epoch, epoch_figures(progress, epoch, training))


def log_outcome(
    config: Config,
    dataset: PreparedDataset,
    output: Path,
    unfinished: Unfinished,
    trained: Trained,
    costs: Costs,
) -> str:
    """Log what a training led to, to the open run, as far as an earlier attempt did not.

    Returns:
        What became of the model, in words.
    """
    runs.log_tags(
        {
            "device": devices.describe(),
            "threads": devices.threads(),
            "weights_sha256": classifier.weights_digest(trained.best.model),
        }
    )
    described = [output / name for name in (paths.CURVES, paths.HISTORY, paths.SUMMARY)]
    runs.log_files(described, "training")
    runs.log_files(unfinished.data_files, "data")
    stored = store(config, dataset, output, trained.validation, unfinished)
    if not runs.logged("train_seconds"):
        progress = trained.progress
        figures = {
            **trained.validation,
            "checkpoint_epoch": progress.best(config.training)[0],
            "parameters": trained.best.model.count_params(),
            "stored_bytes": sum(
                path.stat().st_size for path in output.rglob("*") if path.is_file()
            ),
        }
        fit_seconds = {"fit_seconds": progress.costs["fit_seconds"]}
        runs.log_metrics(figures | costs.spent() | fit_seconds, epoch=progress.epochs)
    return stored


def store(
    config: Config,
    dataset: PreparedDataset,
    output: Path,
    validation: Mapping[str, float],
    unfinished: Unfinished,
) -> str:
    """Store the model as `tracking.register_models` says; return in words what became of it."""
    folder = output / paths.MODEL
    if config.tracking.register_models == "none":
        return "not stored"
    if config.tracking.register_models == "best":
        registry.store_for_later(dataset, folder, validation)
        return "stored"
    version = registry.register(config, dataset, folder, validation)
    record = {
        "run_id": version.run_id,
        "name": version.name,
        "version": version.version,
        "unfinished": unfinished.key,
    }
    (output / paths.RUN).write_text(json.dumps(record, indent=2) + "\n")
    return f"registered as {version.uri}"


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


def write_history(progress: Progress, path: Path) -> None:
    """Write one row an epoch, epochs counted from 1."""
    history = progress.history
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *history])
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=1):
            writer.writerow([epoch, *values])
