"""Trains until the best checkpoint so far reaches the article's test accuracy, 97.31%.

    python time_to_accuracy.py article|compact SEED STARTED OVERRIDES…

`article` is the article's way, `compact` is our whole training of the compact model, with its
MLflow run. STARTED is when the command was started, in seconds since 1970.

Prints `reached SECONDS`: the time since STARTED, imports included, but without the time to measure
the test accuracy, which is not part of either training. The validation images choose the best
epoch. The test images only decide when the clock stops.
"""

import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import article
import keras
import numpy as np

from image_classifier.config.compose import config_of
from image_classifier.config.schema import Config, Training
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.stages.train import train_model
from image_classifier.training import identity
from image_classifier.training.progress import Progress
from image_classifier.training.resume import ResumeState

ACCURACY = 0.9731


class Stopwatch:
    """Measures the time until the test accuracy is reached."""

    def __init__(self, started: float) -> None:
        """Store when the command was started, in seconds since 1970."""
        self.started = started

    def check(self, measure: Callable[[], float]) -> None:
        """Measure the test accuracy, 0 to 1; if it is reached, print the time and exit."""
        before = time.time()
        accuracy = measure()
        if accuracy >= ACCURACY:
            print(f"reached {before - self.started:.2f} s at {accuracy:.4f}", flush=True)
            sys.exit()
        self.started += time.time() - before


class ArticleTestAccuracy(keras.callbacks.Callback):
    """Measures the article's model on the test images when ModelCheckpoint has saved it."""

    def __init__(self, stopwatch: Stopwatch, classes: int) -> None:
        """Store the stopwatch, and open the test images."""
        super().__init__()
        self.stopwatch = stopwatch
        self.images = article.test_generator(classes)
        self.best = 0.0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Measure if this epoch is the best so far."""
        if logs["val_accuracy"] > self.best:
            self.best = logs["val_accuracy"]
            self.stopwatch.check(self.accuracy)

    def accuracy(self) -> float:
        """Return the accuracy on the test images."""
        return float(self.model.evaluate(self.images, verbose=0, return_dict=True)["accuracy"])


class TestAccuracy(keras.callbacks.Callback):
    """Measures our model on the test images after every epoch that is the best so far.

    It measures before the next epoch begins, or when the training ends: only then have all other
    callbacks of the epoch run, the checkpoint and the MLflow logger too.
    """

    def __init__(self, stopwatch: Stopwatch, training: Training, dataset: PreparedDataset) -> None:
        """Store the stopwatch, what decides which epoch is the best, and the images."""
        super().__init__()
        self.stopwatch = stopwatch
        self.training = training
        self.dataset = dataset
        self.progress = Progress()
        self.new_best = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Note whether this epoch is the best so far."""
        for name, value in logs.items():
            self.progress.history.setdefault(name, []).append(float(value))
        self.new_best = self.progress.best(self.training)[0] == self.progress.epochs

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Measure the previous epoch."""
        self.check()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Measure the last epoch."""
        self.check()

    def check(self) -> None:
        """Measure if the last finished epoch is the best so far."""
        if self.new_best:
            self.stopwatch.check(self.accuracy)
            self.new_best = False

    def accuracy(self) -> float:
        """Return the accuracy on the test images, with the threshold 0.5."""
        rows = self.dataset.indices("test")
        outputs = self.model(self.dataset.images[rows], training=False).numpy()
        predicted = outputs.argmax(1) if outputs.shape[1] > 1 else outputs[:, 0] >= 0.5
        return float(np.mean(predicted == self.dataset.labels[rows]))


def run_article(stopwatch: Stopwatch, config: Config, folder: Path) -> None:
    """Train the article's way."""
    keras.utils.set_random_seed(config.training.seed)
    dataset = load_prepared(config)
    classes = len(dataset.classes)
    article.model(config, dataset).fit(
        article.generator("training", classes),
        validation_data=article.generator("validation", classes),
        epochs=30,
        verbose=0,
        callbacks=[*article.callbacks(folder), ArticleTestAccuracy(stopwatch, classes)],
    )


def run_compact(stopwatch: Stopwatch, config: Config, folder: Path) -> None:
    """Train as the commands do, with the MLflow run; never continue an earlier attempt."""
    dataset = load_prepared(config)
    job_key = identity.job_key(config, dataset)
    state = ResumeState("benchmark", job_key, folder, training_id=uuid.uuid4().hex)
    test = TestAccuracy(stopwatch, config.training, dataset)
    train_model(config, dataset, folder / "output", state, more_stoppers=[test])


if __name__ == "__main__":
    model, seed, started, *overrides = sys.argv[1:]
    config = config_of(*overrides, f"model={model}", f"training.seed={seed}")
    run = run_article if model == "article" else run_compact
    # the last checkpoint may still be written when the process exits
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run(Stopwatch(float(started)), config, Path(folder))
