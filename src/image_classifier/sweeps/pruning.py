"""The Keras callback that lets Optuna stop a hopeless trial of a search early."""

from collections.abc import Mapping

import keras
import optuna

from image_classifier.sweeps.study import PRUNED


class Pruning(keras.callbacks.Callback):
    """Reports every epoch to Optuna, and stops the training when the pruner says so.

    Attributes:
        stopped_after: The epoch after which the trial was stopped, counted from 1, or None.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        """Store the trial, and the metric that is reported."""
        super().__init__()
        self.trial = trial
        self.monitor = monitor
        self.stopped_after: int | None = trial.user_attrs.get(PRUNED)
        # after an interruption Optuna knows some epochs already
        self.reported = set(trial.study.trials[trial.number].intermediate_values)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Report the epoch, and stop the training if the pruner says so."""
        if epoch + 1 not in self.reported:
            self.trial.report(logs[self.monitor], epoch + 1)
            if self.trial.should_prune():
                self.trial.set_user_attr(PRUNED, epoch + 1)
                self.stopped_after = epoch + 1
                print(f"Pruned after epoch {epoch + 1}: other trials are better.")
        if self.stopped_after and epoch + 1 >= self.stopped_after:
            self.model.stop_training = True
