"""Trains until the test accuracy of the best checkpoint so far first reaches the article's 97.31%.

    python time_to_accuracy.py article|compact SEED STARTED OVERRIDES…

STARTED is the time (seconds since 1970) of the command. Prints `reached SECONDS`: imports and all,
but without the looks at the test images, which are no part of either way. The best epoch is
chosen on validation; the test images decide nothing but when to stop the clock.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import article
import keras
import numpy as np

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import load_prepared
from image_classifier.training import checkpoint, fitting, job

ACCURACY = 0.9731


class Finish:
    """Stops the clock once the test accuracy is reached."""

    def __init__(self, started: float, accuracy: Callable[[], float]) -> None:
        """Take when the command began, and how to measure the test accuracy, 0 to 1."""
        self.started = started
        self.accuracy = accuracy

    def look(self) -> None:
        """Measure; end the process where the accuracy is reached."""
        before = time.time()
        accuracy = self.accuracy()
        if accuracy >= ACCURACY:
            print(f"reached {before - self.started:.2f} s at {accuracy:.4f}", flush=True)
            sys.exit()
        self.started += time.time() - before


def run_article(seed: int, started: float, settings: Config) -> None:
    """Train the article's way."""
    keras.utils.set_random_seed(seed)
    dataset = load_prepared(settings)
    classes = len(dataset.classes)
    model = article.model(settings, dataset)
    test = article.test_generator(classes)
    finish = Finish(started, lambda: model.evaluate(test, verbose=0, return_dict=True)["accuracy"])

    class Look(keras.callbacks.Callback):
        best = 0.0

        def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
            if logs["val_accuracy"] > self.best:
                self.best = logs["val_accuracy"]
                finish.look()

    model.fit(
        article.generator("training", classes),
        validation_data=article.generator("validation", classes),
        epochs=30,
        verbose=0,
        callbacks=[*article.callbacks(Path(tempfile.mkdtemp())), Look()],
    )


def run_compact(started: float, settings: Config) -> None:
    """Train our way: the product's whole training, MLflow run and all."""
    dataset = load_prepared(settings)
    rows = dataset.indices("test")

    class LookingCheckpoint(checkpoint.Checkpoint):
        def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
            super().on_epoch_end(epoch, logs)
            if self.progress.best(self.training)[0] <= epoch:
                return

            def accuracy() -> float:
                outputs = self.model(dataset.images[rows], training=False).numpy()
                chosen = outputs.argmax(1) if outputs.shape[1] > 1 else outputs[:, 0] >= 0.5
                return float(np.mean(chosen == dataset.labels[rows]))

            Finish.look(finish(accuracy))

    clock: list[Finish] = []

    def finish(accuracy: Callable[[], float]) -> Finish:
        if not clock:
            clock.append(Finish(started, accuracy))
        return clock[0]

    fitting.Checkpoint = LookingCheckpoint  # type: ignore[attr-defined]
    job.train(settings, dataset, Path(tempfile.mkdtemp()), "time to accuracy", [])


if __name__ == "__main__":
    way, seed, started, *overrides = sys.argv[1:]
    composed = compose.compose([*overrides, f"model={way}", f"training.seed={seed}"])
    if way == "article":
        run_article(int(seed), float(started), compose.typed(composed))
    else:
        run_compact(float(started), compose.typed(composed))
