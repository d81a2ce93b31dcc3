"""The training loop on a small dataset."""

import time
from pathlib import Path

import keras
import numpy as np
import pytest

from conftest import SHRUNK, Project
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.sweeps import job
from image_classifier.training import devices, fit, identity, phases, resume
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.epoch_file import epoch_file, latest
from image_classifier.training.progress import Progress

TINY = ["image.height=20", "image.width=24", "model.filters=[4,8]", "training.epochs=2"]


def tiny(*overrides: str) -> Config:
    return compose.config_of(*TINY, *overrides)


def train(
    settings: Config,
    dataset: PreparedDataset,
    folder: Path,
    *more: keras.callbacks.Callback,
) -> Progress:
    """Fit a new model, or continue with the epochs in a folder, as the stage train does."""
    folder.mkdir(exist_ok=True)
    devices.configure(settings.training)
    progress, _ = latest(folder, settings.training)
    while phase := phases.current(settings, progress):
        model = fit.model_of(settings, dataset, phase, folder, progress)
        stoppers = fit.stoppers(settings.training)
        checkpoint = Checkpoint(folder, settings.training, progress, stoppers, phase=phase)
        fit.fit(model, dataset, settings, phase, progress, [*stoppers, checkpoint, *more])
    return progress


class Killed(Exception):
    """Ends a training, as a kill of the process does."""


class Kill(keras.callbacks.Callback):
    """Ends a training before an epoch, counted from 0, when the last file is written."""

    def __init__(self, folder: Path, epoch: int) -> None:
        super().__init__()
        self.file, self.epoch = epoch_file(folder, epoch), epoch

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        if epoch == self.epoch:
            while not self.file.is_file():  # a thread, which this does not end, writes it
                time.sleep(0.01)
            raise Killed


def same_variables(first: Path, second: Path, epoch: int) -> bool:
    """Return whether two trainings have the same variables in an epoch, to the last bit."""
    with np.load(epoch_file(first, epoch)) as a, np.load(epoch_file(second, epoch)) as b:
        numbers = [key for key in a.files if key.isdigit()]
        assert numbers
        return a.files == b.files and all((a[key] == b[key]).all() for key in numbers)


@pytest.mark.parametrize(
    "model", ["compact", "article"]
)  # one monitors val_loss, the other one val_accuracy
def test_a_training_that_diverges_stops_with_a_message(
    dataset: PreparedDataset,
    empty_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
):
    compiled_model = fit.compiled_model

    def diverged(*arguments: object) -> keras.Model:
        model = compiled_model(*arguments)
        model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        return model

    monkeypatch.setattr(fit, "compiled_model", diverged)
    config = tiny(f"model={model}")
    with (
        pytest.raises(InputError, match=r"diverged.*Lower optimizer.learning_rate="),
        resume.claim(config, dataset) as state,
    ):
        job.train_and_register(config, dataset, empty_project / "output", state, [])
    assert "Epoch 2/2" not in capsys.readouterr().out
    assert not list(empty_project.glob("runs/unfinished/*/"))


def test_a_model_trained_in_float16_is_stored_in_float32(dataset: PreparedDataset, tmp_path: Path):
    settings = tiny("training.mixed_precision=true")
    progress = train(settings, dataset, tmp_path)
    kept = fit.best_model(settings, dataset, tmp_path, progress)
    assert {layer.compute_dtype for layer in kept.layers[1:]} == {"float32"}
    exact = kept.predict(dataset.images, verbose=0)
    assert np.ptp(exact) > 0
    assert {weight.dtype for weight in kept.weights} == {"float32"}


def test_what_decides_the_weights_decides_the_key(dataset: PreparedDataset):
    def key(*overrides: str) -> str:
        config = tiny(*overrides)
        return identity.training_key(identity.job_key(config, dataset), config.training)

    for other in (
        "promotion.minimum_accuracy=0.1",
        "tracking.experiment=x",
        "serving.read_seconds=9",
        "evaluation.threshold=0.4",
    ):
        assert key(other) == key()
    for other in ("training.seed=1", "augmentation=none", "optimizer.learning_rate=0.1"):
        assert key(other) != key()


def test_patience_and_the_best_epoch_survive_an_interruption(
    dataset: PreparedDataset, tmp_path: Path
):
    # it hardly learns, so it stops when its patience ends
    settings = tiny(
        "model=article", "model.dense_units=4", "training.epochs=20", "training.patience=4",
        "optimizer.learning_rate=1e-9",
    )  # fmt: skip

    whole = train(settings, dataset, tmp_path / "whole")
    interrupted = tmp_path / "interrupted"
    with pytest.raises(Killed):
        train(settings, dataset, interrupted, Kill(interrupted, 3))
    resumed = train(settings, dataset, interrupted)
    assert resumed.history == whole.history
    assert resumed.stopped
    assert resumed.epochs < 20
    assert resumed.best(settings.training) == whole.best(settings.training)
    assert train(settings, dataset, interrupted).epochs == resumed.epochs  # nothing is left to do


def test_an_epoch_with_a_loss_of_nan_is_never_the_best():
    nan = float("nan")
    loss = compose.config_of().training
    assert Progress({"val_loss": [nan, 0.4, 0.2, nan, 0.3]}).best(loss) == (3, 0.2)
    accuracy = compose.config_of("model=article").training
    values: dict[str, list[float]] = {"val_accuracy": [0.4, 0.9, 0.9]}
    assert Progress(values | {"val_loss": [1, 1, 1]}).best(accuracy) == (2, 0.9)
    assert Progress(values | {"val_loss": [1, nan, 1]}).best(accuracy) == (3, 0.9)
    assert Progress(values | {"val_loss": [nan, nan, nan]}).best(accuracy)[0] == 0


def test_xla_is_off_on_the_cpu_where_it_is_slower():
    settings = tiny("training.deterministic=false")
    assert devices.compiles_with_xla(settings.training) is False


@pytest.mark.parametrize("setting", ["mixed_precision", "mirrored"])
def test_a_setting_that_needs_a_gpu_is_refused_without_one(project: Project, setting: str):
    output = project.command("train", *SHRUNK, f"training.{setting}=true", code=1)
    assert f"training.{setting}" in output
    assert "no GPU" in output
    assert "Set it to false" in output
    assert "Traceback" not in output


def test_a_mirrored_model_trains_on_two_devices(project: Project, tmp_path: Path):
    """Two logical CPUs stand for two GPUs."""
    code = """
import pathlib, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from image_classifier.config import compose
from image_classifier.data import dataset
from image_classifier.training import epoch_file, fit, phases, progress
from image_classifier.training.checkpoint import Checkpoint
settings = compose.load()
prepared = dataset.load_prepared(settings)
folder, progress = pathlib.Path(sys.argv[1]), progress.Progress()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    (phase,) = phases.phases(settings)
    model = fit.compiled_model(settings, prepared, phase)
checkpoint = Checkpoint(folder, settings.training, progress)
fit.fit(model, prepared, settings, phase, progress, [checkpoint])
loss = progress.history["loss"]
print("epochs", len(loss), "loss falls", loss[1] < loss[0])
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    again = fit.compiled_model(settings, prepared, phase)
    kept = fit.best_model(settings, prepared, folder, progress)
    print("kept", kept.count_params() == model.count_params())
    print("restored", epoch_file.restore(again, folder, settings.training) == progress)
"""
    output = project.python("-c", code, str(tmp_path))
    assert "epochs 2 loss falls True" in output
    assert "restored True" in output
    assert "kept True" in output
