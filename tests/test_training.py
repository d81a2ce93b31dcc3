"""The training loop on a small dataset in memory."""

import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from conftest import SHRUNK, Project
from image_classifier import config, devices, tracking, training
from image_classifier.dataset import PreparedDataset
from image_classifier.errors import InputError

TINY = ["image.height=20", "image.width=24", "model.filters=[4,8]", "training.epochs=2"]


def tiny(*overrides: str) -> config.Config:
    return config.from_hydra(config.compose([*TINY, *overrides]))


@pytest.fixture(scope="module")
def open_run(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An open run in an MLflow store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("store"))
        with tracking.training_run(tiny(), dataset, "test"):
            yield


@pytest.mark.usefixtures("open_run")
def test_a_training_that_diverges_says_so(dataset: PreparedDataset, tmp_path: Path):
    settings = tiny()
    model = training.compiled_model(settings, dataset)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(InputError, match=r"diverged. Lower optimizer.learning_rate=0.005"):
        training.fit(model, settings, dataset, tmp_path / "model.keras")


@pytest.mark.usefixtures("open_run")
def test_what_was_trained_in_float16_is_kept_in_float32(dataset: PreparedDataset, tmp_path: Path):
    settings = tiny("training.mixed_precision=true")
    model = training.compiled_model(settings, dataset)
    training.fit(model, settings, dataset, tmp_path / "model.keras")
    kept = keras.models.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in kept.layers[1:]} == {"float32"}
    exact = kept.predict(dataset.images, verbose=0)
    assert np.ptp(exact) > 0
    assert {weight.dtype for weight in kept.weights} == {"float32"}


def test_the_best_epoch_passes_over_what_is_no_number():
    nan = float("nan")
    loss = config.from_hydra(config.compose()).training
    assert training.best_of({"val_loss": [nan, 0.4, 0.2, nan, 0.3]}, loss) == (3, 0.2)
    accuracy = config.from_hydra(config.compose(["model=article"])).training
    assert training.best_of({"val_accuracy": [0.4, 0.9, 0.9]}, accuracy) == (2, 0.9)
    assert training.best_of({"val_accuracy": [nan, nan]}, accuracy)[0] == 1


def test_xla_is_off_on_the_cpu_where_it_is_slower():
    settings = tiny("training.deterministic=false")
    assert devices.compiles_with_xla(settings.training) is False


@pytest.mark.parametrize("setting", ["mixed_precision", "mirrored"])
def test_what_needs_a_gpu_is_refused_without_one(project: Project, setting: str):
    output = project.module("train", *SHRUNK, f"training.{setting}=true", code=1)
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
from image_classifier import config, dataset, tracking, training
settings = config.load()
prepared = dataset.load_prepared(settings)
with tracking.training_run(settings, prepared, "mirrored"):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = training.compiled_model(settings, prepared)
    history = training.fit(model, settings, prepared, pathlib.Path(sys.argv[1]))
print("epochs", len(history["loss"]), "loss falls", history["loss"][1] < history["loss"][0])
"""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    kept = tmp_path / "model.keras"
    output = project.run(sys.executable, "-c", code, str(kept), MLFLOW_TRACKING_URI=store)
    assert "epochs 2 loss falls True" in output
    assert keras.models.load_model(kept).count_params() == 192_753
