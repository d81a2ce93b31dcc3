"""Stops a hopeless job of a sweep early."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from image_classifier.schema import Training

MINIMUM_JOBS = 4  # finished ones that there must be for a median,
WARM_UP = 3  # and epochs before the first look: the settings of Optuna's MedianPruner are 5 and 0


class MedianStopping(keras.callbacks.Callback):
    """Ends a training whose best value so far is worse than the median of finished jobs.

    Source: Golovin et al., Google Vizier: A Service for Black-Box Optimization, 2017, section 3.2.
    """

    def __init__(self, curves: Sequence[Sequence[float]], training: Training) -> None:
        """Take what to compare with.

        Args:
            curves: For each finished job its best value so far, epoch by epoch.
            training: Says which figure decides, and whether more or less of it is better.
        """
        super().__init__()
        self.curves = [curve for curve in curves if curve]
        self.monitor = training.monitor
        self.sign = -1 if training.mode == "min" else 1
        self.best = float("-inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Stop where this job lies below the median."""
        self.best = np.fmax(self.best, self.sign * logs[self.monitor])
        if epoch + 1 < WARM_UP or len(self.curves) < MINIMUM_JOBS:
            return
        others = [self.sign * curve[min(epoch, len(curve) - 1)] for curve in self.curves]
        if self.best < np.median(others):
            print(f"Stopped after epoch {epoch + 1}: worse than the median of finished jobs.")
            self.model.stop_training = True
