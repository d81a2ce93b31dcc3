import keras
import pytest

from image_classifier.config import compose
from image_classifier.sweeps.median_stopping import MedianStopping

GOOD = [[0.5, 0.4, 0.3, 0.2]] * 3 + [[0.9, 0.8, 0.7, 0.6]] * 2  # the median is a good one


def epochs_run(values: list[float], curves: list[list[float]]) -> int:
    training = compose.config_of().training
    stopping = MedianStopping(curves, training.monitor)
    model = keras.Sequential()
    model.stop_training = False  # as fit() sets it
    stopping.set_model(model)
    for epoch, value in enumerate(values):
        stopping.on_epoch_end(epoch, {training.monitor: value})
        if model.stop_training:
            return epoch + 1
    return len(values)


@pytest.mark.parametrize(
    ("values", "curves", "epochs"),
    [
        ([0.9, 0.8, 0.7, 0.6], GOOD, 3),  # worse at the first comparison
        ([0.9, 0.8, 0.25, 0.24], GOOD, 4),  # better at the third epoch, worse at the fourth
        ([0.4, 0.3, 0.2, 0.1], GOOD, 4),  # better
        ([0.2, 0.9, 0.9, 0.9], GOOD, 4),  # the best value so far counts
        ([0.9, 0.8, 0.7, 0.6], GOOD[:3], 4),  # too few finished jobs
        ([float("nan")] * 4, GOOD, 3),
    ],
)
def test_a_job_that_is_worse_than_the_median_stops(values, curves, epochs):
    assert epochs_run(values, curves) == epochs
