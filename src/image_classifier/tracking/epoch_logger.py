"""The Keras callback that logs every epoch to MLflow while the next epoch runs."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import keras

from image_classifier.config.schema import Training
from image_classifier.tracking import connection, runs
from image_classifier.training.progress import Progress


class EpochLogger(keras.callbacks.Callback):
    """Logs each epoch in a thread of its own.

    When an epoch cannot be logged, the training continues; `log_missing_epochs` logs it later.
    """

    def __init__(self, run_id: str | None, progress: Progress, training: Training) -> None:
        """Store the run, None when MLflow does not answer, and where the epochs are read from."""
        super().__init__()
        self.run_id = run_id
        self.progress = progress
        self.training = training
        self.logged: set[int] | None = None  # by an earlier attempt; known with the first epoch
        self.pool = ThreadPoolExecutor(1)  # MLflow's own queue waits up to a second at the end

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Start to log the epoch."""
        metrics = self.progress.epoch_metrics(self.training, epoch + 1)
        self.pool.submit(connection.log_or_continue, partial(self._log, epoch + 1, metrics))

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Wait for the epoch that is being logged; the ones still queued are logged later."""
        self.pool.shutdown(cancel_futures=True)

    def _log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        run_id, self.run_id = self.run_id, None
        if run_id:
            if self.logged is None:
                self.logged = runs.logged_epochs(run_id)
            # an attempt that was killed may have logged an epoch whose file it had not written yet
            if epoch not in self.logged:
                runs.log_epoch(run_id, epoch, metrics)
            self.run_id = run_id  # stays None after an error: the other epochs do not try again


def log_missing_epochs(run_id: str, progress: Progress, training: Training) -> None:
    """Log the epochs that a run lacks, because MLflow did not answer or the process was killed."""
    logged = runs.logged_epochs(run_id)
    for epoch in range(1, progress.epochs + 1):
        if epoch not in logged:
            runs.log_epoch(run_id, epoch, progress.epoch_metrics(training, epoch))
