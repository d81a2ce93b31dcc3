"""Stops a hopeless job of a sweep early."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from image_classifier.config.schema import sign_of

# Optuna's MedianPruner, by default, wants 5 finished trials and no warm-up
MINIMUM_JOBS = 4  # finished jobs, before a median means anything
WARM_UP = 3  # epochs before the first comparison


class MedianStopping(keras.callbacks.Callback):
    """Stops a training whose best value so far is worse than the median of the finished jobs.

    Source: Golovin et al., Google Vizier: A Service for Black-Box Optimization, 2017, section 3.2.
    """

    def __init__(self, curves: Sequence[Sequence[float]], monitor: str) -> None:
        """Store what to compare with.

        Args:
            curves: For each finished job, its best value so far after every epoch.
            monitor: The metric that is compared.
        """
        super().__init__()
        self.curves = [curve for curve in curves if curve]
        self.monitor = monitor
        self.sign = sign_of(monitor)
        self.best = float("inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Stop the training if it is worse than the median."""
        self.best = np.fmin(self.best, self.sign * logs[self.monitor])
        if epoch + 1 < WARM_UP or len(self.curves) < MINIMUM_JOBS:
            return
        others = [self.sign * curve[min(epoch, len(curve) - 1)] for curve in self.curves]
        if self.best > np.median(others):
            print(f"Stopped after epoch {epoch + 1}: worse than the median of the finished jobs.")
            self.model.stop_training = True
