"""Rows about epochs of the article's CNN, and about the time to an accuracy."""

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
from image_classifier.training import fitting
from image_classifier.training.checkpoint import Progress

EPOCHS = 3  # the first of each measurement is not counted: it starts the pipelines


class Clock(keras.callbacks.Callback):
    """Notes when each epoch ends, after all that belongs to it."""

    def __init__(self) -> None:
        """Start without epochs."""
        super().__init__()
        self.ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds_per_epoch(self) -> float:
        """Return the mean over all epochs but the first."""
        return mean(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))


def in_memory(dataset: PreparedDataset, split: Any) -> tf.data.Dataset:
    """Return a split's batches out of tensors in memory, with nothing to do but take them."""
    rows = dataset.indices(split)
    tensors = (tf.constant(dataset.images[rows]), tf.constant(dataset.labels[rows, None]))
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(tensors).batch(article.BATCH).with_options(options)


def measure_epochs(
    settings: Config, dataset: PreparedDataset, repeats: int
) -> tuple[list[Row], float]:
    """Epochs of training and validation: ours, the same steps from memory, the article's way.

    Ours is the product's own `fit`: checkpoint, early stopping, and logging to MLflow.

    Returns:
        The rows, and the seconds of an epoch from memory.
    """
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"epochs": EPOCHS})}
    )
    folder = Path(tempfile.mkdtemp())
    ours = fitting.compiled_model(settings, dataset)
    pure = fitting.compiled_model(settings, dataset)
    theirs = article.model(settings, dataset)
    train, validation = in_memory(dataset, "train"), in_memory(dataset, "validation")
    generators = [
        article.generator(part, len(dataset.classes)) for part in ("training", "validation")
    ]

    def fit_ours() -> float:
        clock = Clock()

        class TimedLogger(fitting.EpochLogger):  # the last of fit's callbacks
            def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
                super().on_epoch_end(epoch, logs)
                clock.on_epoch_end(epoch)

        original = fitting.EpochLogger
        fitting.EpochLogger = TimedLogger  # type: ignore[misc]
        try:
            fitting.fit(ours, settings, dataset, folder, Progress(), run_id)
        finally:
            fitting.EpochLogger = original  # type: ignore[misc]
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

    run_id = runs.open_training(settings, dataset, "benchmark")
    with runs.open_run(run_id):
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
    """Seconds from the command to a best checkpoint that reaches the article's test accuracy."""

    def reach(way: str, seed: int) -> float:
        script = Path(__file__).with_name("time_to_accuracy.py")
        result = subprocess.run(
            [sys.executable, script, way, str(seed), str(time.time()), *overrides],
            capture_output=True,
            text=True,
        )
        reached = [line for line in result.stdout.splitlines() if line.startswith("reached ")]
        if result.returncode:
            sys.exit(f"{script} {way} failed:\n{result.stdout}\n{result.stderr}")
        return float(reached[0].split()[1]) if reached else math.inf

    rounds = [(reach("compact", seed), reach("article", seed)) for seed in range(max(repeats, 3))]
    return compare(
        "time to 97.31% test accuracy: compact ÷ the article's way", rounds, "s", "≤ 0.167"
    )
