from pathlib import Path

import keras
import numpy as np
import pytest

from image_classifier import config, models
from image_classifier.checkpoint import BestCheckpoint
from image_classifier.config import Training

IMAGES = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([[0], [1]])


def settings(*overrides: str) -> config.Config:
    return config.from_hydra(config.compose(["image.height=32", "image.width=32", *overrides]))


def checkpoint(path: Path, training: Training) -> tuple[keras.Model, BestCheckpoint]:
    """A compiled model, and the callback that keeps its weights in `path`."""
    model, empty = (models.build(settings().model, (32, 32, 3), 2) for _ in range(2))
    models.compile_for_training(model, settings("optimizer=article").optimizer, 1)
    callback = BestCheckpoint(empty, path, training)
    callback.set_model(model)
    return model, callback


@pytest.mark.parametrize(
    ("training", "values", "best"),
    [
        ("article", (0.5, 0.9, 0.7), 1),  # accuracy: more is better
        ("compact", (0.5, 0.9, 0.3), 2),  # loss: less is better
        ("article", (0.9, 0.9, 0.9), 0),  # of equals the first
        ("compact", (float("nan"), 0.9, float("nan")), 1),
    ],
)
def test_the_file_holds_the_best_epoch_without_the_optimizer(
    tmp_path: Path, training: str, values: tuple[float, ...], best: int
):
    chosen = settings(f"training={training}").training
    path = tmp_path / "model.keras"
    model, callback = checkpoint(path, chosen)
    outputs = []
    for epoch, value in enumerate(values):
        model.fit(IMAGES, LABELS, verbose=0)
        outputs.append(model.predict(IMAGES, verbose=0))
        callback.on_epoch_end(epoch, {chosen.monitor: value})
    callback.on_train_end()
    loaded = keras.models.load_model(path)
    assert loaded.predict(IMAGES, verbose=0) == pytest.approx(outputs[best], abs=1e-6)
    assert not hasattr(loaded, "optimizer") or loaded.optimizer is None
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_what_goes_wrong_in_writing_ends_the_training(tmp_path: Path):
    _, callback = checkpoint(tmp_path / "missing" / "model.keras", settings().training)
    callback.on_epoch_end(0, {"val_loss": 1.0})
    with pytest.raises(OSError, match="missing"):
        callback.on_train_end()
