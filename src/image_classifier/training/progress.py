"""How far a training has come, and which of its epochs is the best."""

from dataclasses import dataclass, field

import numpy as np

from image_classifier.config.schema import Training, sign_of


@dataclass
class Progress:
    """How far a training has come, in all its attempts.

    Attributes:
        history: `loss`, `accuracy`, `balanced_accuracy` and the monitored metric, of training and,
            with `val_` before the name, of validation; one value for each epoch.
        stopped: Whether the training ended before its last epoch.
        stopped_from_outside: Whether something else than patience or a loss of NaN ended it, such
            as a comparison with other jobs of a sweep.
        head_epochs: The epochs of the first phase of a pretrained model, if patience ended it.
        timings: Seconds spent so far; see `Timings`.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    stopped: bool = False
    stopped_from_outside: bool = False
    head_epochs: int | None = None
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.history.get("loss", []))

    def best(self, training: Training, epochs: int | None = None) -> tuple[int, float]:
        """Return the best of the first epochs, or of all, and its monitored value.

        The first of several equal epochs is the best. An epoch whose loss is NaN is never the
        best, although its accuracy can be 1.

        Returns:
            The epoch, counted from 1, and its value of `training.monitor`; 0 and NaN when the loss
            of every epoch is NaN.
        """
        diverged = np.isnan(self.history["val_loss"][:epochs])
        values = np.where(diverged, np.nan, self.history[training.monitor][:epochs])
        if np.isnan(values).all():
            return 0, float("nan")
        best = int(np.nanargmin(sign_of(training.monitor) * values))
        return best + 1, float(values[best])

    def epoch_metrics(self, training: Training, epoch: int) -> dict[str, float]:
        """Return the metrics of an epoch, counted from 1, and those of the best epoch so far."""
        history = {name: values[:epoch] for name, values in self.history.items()}
        best = max(1, self.best(training, epoch)[0])
        # The best loss comes first: MLflow's comparison opens on the first metric, and with some
        # dozens of validation images many epochs have the same accuracy.
        measured = dict.fromkeys(
            ["val_loss", "val_accuracy", "val_balanced_accuracy", training.monitor]
        )
        return {
            **{f"best_{name}": history[name][best - 1] for name in measured},
            # the slash makes sections of charts on the pages of MLflow
            "train/accuracy": history["accuracy"][-1],
            "train/loss": history["loss"][-1],
            **{f"val/{name.removeprefix('val_')}": history[name][-1] for name in measured},
        }
