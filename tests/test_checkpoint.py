import functools
from pathlib import Path

import keras
import numpy as np
import pytest

from image_classifier.config import compose
from image_classifier.config.schema import Config, Training
from image_classifier.training import architectures
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.compilation import compile_for_training
from image_classifier.training.epoch_file import (
    assign_weights,
    epoch_file,
    restore,
    variables_of,
)
from image_classifier.training.progress import Progress

IMAGES = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([[0], [1]])


@functools.cache
def settings(*overrides: str) -> Config:
    return compose.config_of("image.height=32", "image.width=32", *overrides)


def compiled() -> keras.Model:
    model = architectures.build(settings().model, (32, 32, 3), 2)
    chosen = settings("optimizer=adam_constant")
    compile_for_training(model, chosen.optimizer, chosen.training, 1)
    return model


def checkpoint(folder: Path, training: Training) -> tuple[keras.Model, Checkpoint]:
    """A compiled model, and the callback that keeps it in a folder."""
    model = compiled()
    callback = Checkpoint(folder, training, Progress())
    callback.set_model(model)
    return model, callback


@pytest.mark.parametrize(
    ("training", "values", "best"),
    [
        # accuracy: the highest is the best, the first of equal epochs
        ("early_stopping", (0.5, 0.9, 0.9), 1),
        # loss: the lowest is the best
        ("full_schedule", (float("nan"), 0.9, 0.3), 2),
    ],
)
def test_the_best_and_the_last_epoch_are_kept(
    tmp_path: Path, training: str, values: tuple[float, ...], best: int
):
    chosen = settings(f"training={training}").training
    model, callback = checkpoint(tmp_path, chosen)
    outputs = []
    for epoch, value in enumerate(values):
        model.fit(IMAGES, LABELS, verbose=0)
        outputs.append(model.predict(IMAGES, verbose=0))
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0, chosen.monitor: value})
    callback.on_train_end()
    last = len(values)
    assert set(tmp_path.iterdir()) == {epoch_file(tmp_path, n) for n in (best + 1, last)}
    kept = architectures.build(settings().model, (32, 32, 3), 2)
    assign_weights(kept, tmp_path, best + 1)
    assert kept.predict(IMAGES, verbose=0) == pytest.approx(outputs[best], abs=1e-6)


def test_an_error_while_writing_ends_the_training(tmp_path: Path):
    (tmp_path / "a file").touch()
    _, callback = checkpoint(tmp_path / "a file", settings().training)
    callback.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    with pytest.raises(OSError, match="a file"):
        callback.on_train_end()


def test_a_restored_model_has_every_variable_of_model_seeds_and_optimizer(tmp_path: Path):
    training = settings().training
    model, callback = checkpoint(tmp_path, training)
    model.fit(IMAGES, LABELS, epochs=2, verbose=0)
    callback.on_epoch_end(0, {"loss": 1.0, "val_loss": 0.1 + 0.2})
    callback.on_train_end()
    again = compiled()
    assert restore(again, tmp_path, training) == callback.progress
    for kept, restored in zip(variables_of(model), variables_of(again), strict=True):
        assert np.array_equal(kept.numpy(), restored.numpy()), kept.path
    for twice in (model, again):
        twice.fit(IMAGES, LABELS, shuffle=False, verbose=0)
    for kept, restored in zip(variables_of(model), variables_of(again), strict=True):
        assert np.array_equal(kept.numpy(), restored.numpy()), kept.path


def test_a_late_writer_still_writes_the_epoch_it_was_given(tmp_path: Path):
    model, callback = checkpoint(tmp_path, settings().training)
    model.fit(IMAGES, LABELS, verbose=0)
    then = [variable.numpy().copy() for variable in variables_of(model)]
    write, callback._write = callback._write, lambda *arguments: None  # type: ignore[method-assign]
    callback.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    arguments: list[object] = []
    callback._write = lambda *given: arguments.extend(given)  # type: ignore[method-assign]
    callback.on_epoch_end(1, {"loss": 1.0, "val_loss": 0.5})
    model.fit(IMAGES, LABELS, epochs=3, verbose=0)  # the writer is late
    write(*arguments)  # type: ignore[arg-type]
    again = compiled()
    assert restore(again, tmp_path, settings().training).epochs == 2
    for kept, restored in zip(then, variables_of(again), strict=True):
        assert np.array_equal(kept, restored.numpy()), restored.path


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[0 if damage == "empty" else len(content) // 2 :]
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_skipped(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    training = settings().training
    model, callback = checkpoint(tmp_path, training)
    callback.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    model.fit(IMAGES, LABELS, verbose=0)
    callback.on_epoch_end(1, {"loss": 1.0, "val_loss": 2.0})
    callback.on_train_end()
    spoil(epoch_file(tmp_path, 2), damage)
    assert restore(compiled(), tmp_path, training).epochs == 1  # the best one's file is whole
    assert "epoch-000002.npz, or that of the best epoch, is damaged" in capsys.readouterr().out
    spoil(epoch_file(tmp_path, 1), damage)
    assert restore(compiled(), tmp_path, training) == Progress()


def test_a_file_that_was_being_written_at_the_kill_is_not_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    training = settings().training
    _, callback = checkpoint(tmp_path, training)
    for epoch, value in enumerate((2.0, 1.0)):
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": value})
        callback._wait()
        if epoch == 0:
            first = epoch_file(tmp_path, 1).read_bytes()
    epoch_file(tmp_path, 1).write_bytes(first)
    whole = epoch_file(tmp_path, 2)
    whole.rename(whole.with_name(f"{whole.stem}.partial.npz"))  # killed before the rename
    progress = restore(compiled(), tmp_path, training)
    assert (progress.epochs, progress.best(training)[0]) == (1, 1)
    assert not capsys.readouterr().out


def test_a_training_whose_best_epoch_is_damaged_starts_from_the_beginning(tmp_path: Path):
    training = settings().training
    _, callback = checkpoint(tmp_path, training)
    for epoch, value in enumerate((1.0, 2.0)):
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": value})
    callback.on_train_end()
    spoil(epoch_file(tmp_path, 1), "flipped")
    assert restore(compiled(), tmp_path, training) == Progress()
