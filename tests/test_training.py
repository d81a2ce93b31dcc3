"""The training loop on a small dataset in memory."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from conftest import SHRUNK, Project
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.training import devices, fitting, job, resume
from image_classifier.training.checkpoint import Progress, restore

TINY = ["image.height=20", "image.width=24", "model.filters=[4,8]", "training.epochs=2"]


def tiny(*overrides: str) -> Config:
    return compose.config_of(*TINY, *overrides)


@pytest.mark.parametrize("model", ["compact", "article"])  # one goes by val_loss, one by accuracy
def test_a_training_that_diverges_ends_at_once_and_says_so(
    dataset: PreparedDataset,
    empty_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
):
    compiled_model = fitting.compiled_model

    def diverged(*arguments: object) -> keras.Model:
        model = compiled_model(*arguments)
        model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        return model

    monkeypatch.setattr(job, "compiled_model", diverged)
    with pytest.raises(InputError, match=r"diverged. Lower optimizer.learning_rate="):
        job.train(tiny(f"model={model}"), dataset, empty_project / "output", "test", [])
    assert "Epoch 2/2" not in capsys.readouterr().out
    assert not list(empty_project.glob("runs/unfinished/*/"))


def test_what_was_trained_in_float16_is_kept_in_float32(dataset: PreparedDataset, tmp_path: Path):
    settings = tiny("training.mixed_precision=true")
    model = fitting.compiled_model(settings, dataset)
    progress = Progress()
    fitting.fit(model, settings, dataset, tmp_path, progress)
    kept = fitting.best_model(settings, dataset, tmp_path, progress)
    assert {layer.compute_dtype for layer in kept.layers[1:]} == {"float32"}
    exact = kept.predict(dataset.images, verbose=0)
    assert np.ptp(exact) > 0
    assert {weight.dtype for weight in kept.weights} == {"float32"}


def test_what_is_trained_alike_goes_by_the_same_key(dataset: PreparedDataset):
    def key(*overrides: str) -> str:
        return resume.key_of(tiny(*overrides), dataset)

    for other in (
        "promotion.minimum_accuracy=0.1",
        "tracking.experiment=x",
        "serving.read_seconds=9",
    ):
        assert key(other) == key()
    for other in ("training.seed=1", "augmentation=none", "evaluation.threshold=0.4"):
        assert key(other) != key()


def test_patience_and_the_best_so_far_survive_an_interruption(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # it hardly learns, so that it stops when patience ends
    settings = tiny(
        "model=article", "model.dense_units=4", "training.epochs=20", "training.patience=4",
        "optimizer.learning_rate=1e-9",
    )  # fmt: skip

    def run(folder: Path) -> Progress:
        folder.mkdir(exist_ok=True)
        devices.configure(settings.training)
        model = fitting.compiled_model(settings, dataset)
        progress = restore(model, folder, settings.training)
        fitting.fit(model, settings, dataset, folder, progress)
        return progress

    class Interrupted(fitting.EpochLogger):
        def on_epoch_end(self, epoch: int, logs: dict) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fitting, "EpochLogger", Interrupted)
        run(tmp_path / "interrupted")
    resumed = run(tmp_path / "interrupted")
    assert resumed.history == whole.history
    assert resumed.stopped
    assert resumed.epochs < 20
    assert resumed.best(settings.training) == whole.best(settings.training)
    assert run(tmp_path / "interrupted").epochs == resumed.epochs  # and nothing comes after


def test_the_best_epoch_passes_over_what_is_no_number():
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
def test_what_needs_a_gpu_is_refused_without_one(project: Project, setting: str):
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
from image_classifier.training import checkpoint, fitting
from image_classifier.config.schema import Config
settings = compose.load()
prepared = dataset.load_prepared(settings)
folder, progress = pathlib.Path(sys.argv[1]), checkpoint.Progress()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = fitting.compiled_model(settings, prepared)
fitting.fit(model, settings, prepared, folder, progress)
loss = progress.history["loss"]
print("epochs", len(loss), "loss falls", loss[1] < loss[0])
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    again = fitting.compiled_model(settings, prepared)
    print("kept", fitting.best_model(settings, prepared, folder, progress).count_params())
    print("restored", checkpoint.restore(again, folder, settings.training) == progress)
"""
    output = project.run(sys.executable, "-c", code, str(tmp_path))
    assert "epochs 2 loss falls True" in output
    assert "restored True" in output
    assert "kept 192753" in output
