"""Comparisons of the time of an epoch, and of the time to an accuracy."""

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import article
import keras
import tensorflow as tf
from comparison import Row, compare, in_turn

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.tracking import runs
from image_classifier.tracking.epoch_logger import EpochLogger
from image_classifier.training import batches, fit, identity, phases
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.progress import Progress

EPOCHS = 3  # in each fit; the first is not measured, because it starts the input pipelines


class Clock(keras.callbacks.Callback):
    """Notes when each epoch ends; must be the last of the callbacks."""

    def __init__(self) -> None:
        """Create a clock for one fit."""
        super().__init__()
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds_per_epoch(self) -> float:
        """Return the mean over all epochs except the first."""
        return mean(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))


def in_memory(dataset: PreparedDataset, split: Any) -> tf.data.Dataset:
    """Return the batches of a split from tensors in memory, without any work on the images."""
    rows = dataset.indices(split)
    tensors = (tf.constant(dataset.images[rows]), tf.constant(batches.targets(dataset, rows)))
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(tensors).batch(article.BATCH).with_options(options)


def measure_epochs(
    config: Config, dataset: PreparedDataset, repeats: int
) -> tuple[list[Row], float]:
    """Compare three epochs: ours, the same steps from memory, and the article's way.

    An epoch includes the validation. Ours has the callbacks of the stage `train`: early stopping,
    the checkpoint, and logging to MLflow.

    Returns:
        The rows, and the seconds of an epoch from memory.
    """
    training = config.training.model_copy(update={"epochs": EPOCHS})
    config = config.model_copy(update={"training": training})
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    (phase,) = phases.phases(config)
    ours = fit.compiled_model(config, dataset, phase)
    pure = fit.compiled_model(config, dataset, phase)
    theirs = article.model(config, dataset)
    train, validation = in_memory(dataset, "train"), in_memory(dataset, "validation")
    generators = [
        article.generator(part, len(dataset.classes)) for part in ("training", "validation")
    ]

    def fit_ours() -> float:
        progress, clock = Progress(), Clock()
        stoppers = fit.stoppers(training)
        callbacks = [
            *stoppers,
            Checkpoint(folder, training, progress, stoppers),
            EpochLogger(run_id, progress, training),
            clock,
        ]
        fit.fit(ours, dataset, config, phase, progress, callbacks)
        return clock.seconds_per_epoch()

    def fit_pure() -> float:
        clock = Clock()
        pure.fit(train, validation_data=validation, epochs=EPOCHS, verbose=0, callbacks=[clock])
        return clock.seconds_per_epoch()

    def fit_theirs() -> float:
        clock = Clock()
        theirs.fit(
            generators[0],
            validation_data=generators[1],
            epochs=EPOCHS,
            verbose=0,
            callbacks=[*article.callbacks(folder), clock],
        )
        return clock.seconds_per_epoch()

    run_id = runs.open_training(config, dataset, "benchmark", identity.job_key(config, dataset))
    with temporary, runs.open_run(run_id):
        rounds = in_turn(repeats, fit_ours, fit_pure, fit_theirs)
    rows = [
        compare(
            "training epoch ÷ same steps from memory (article's CNN)",
            [(ours, pure) for ours, pure, _ in rounds], "s", "≤ 1.05",
        ),
        compare(
            "the article's way ÷ ours, an epoch (article's CNN)",
            [(theirs, ours) for ours, _, theirs in rounds], "s", "≥ 1.7",
        ),
    ]  # fmt: skip
    return rows, rows[0].second


def measure_time_to_accuracy(overrides: list[str], repeats: int) -> Row:
    """Compare the time from the start of the command to the article's test accuracy."""

    def reach(model: str, seed: int) -> float:
        script = Path(__file__).with_name("time_to_accuracy.py")
        result = subprocess.run(
            [sys.executable, script, model, str(seed), str(time.time()), *overrides],
            capture_output=True,
            text=True,
        )
        reached = [line for line in result.stdout.splitlines() if line.startswith("reached ")]
        if result.returncode:
            sys.exit(f"{script} {model} failed:\n{result.stdout}\n{result.stderr}")
        return float(reached[0].split()[1]) if reached else math.inf

    rounds = [(reach("compact", seed), reach("article", seed)) for seed in range(max(repeats, 3))]
    return compare(
        "time to 97.31% test accuracy: compact ÷ the article's way", rounds, "s", "≤ 0.167"
    )
