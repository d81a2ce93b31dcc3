"""Pretrained backbones: the last layer on cached features, then the whole model."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.training import (
    architectures,
    automatic,
    backbones,
    fit,
    identity,
    phases,
)
from test_training import Kill, Killed, same_variables, train

HEIGHT, WIDTH = 20, 24


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backbone in a file, with batch normalisation whose means are not the initial ones."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((HEIGHT, WIDTH, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(x)
    for filters in (4, 8):
        x = layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    model = keras.Model(inputs, x)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.full(layer.moving_mean.shape, 0.1))
    path = tmp_path_factory.mktemp("weights") / "backbone.keras"
    model.save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project's folder, for the features, is the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(backbone: object, *overrides: str) -> Config:
    return compose.config_of(
        "model=pretrained", f"model.backbone={backbone}", f"image.height={HEIGHT}",
        f"image.width={WIDTH}", "training.epochs=3", "training.fine_tune=none",
        "training.fine_tune_epochs=2", *overrides,
    )  # fmt: skip


def values(model: keras.Model, kind: type[keras.Layer] | None = None) -> list[np.ndarray]:
    chosen = [layer for layer in model.layers if kind is None or isinstance(layer, kind)]
    return [array for layer in chosen for array in layer.get_weights()]


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> list[bool]:
    return [bool((a == b).all()) for a, b in zip(some, others, strict=True)]


def test_the_head_alone_leaves_the_backbone_as_it_is(
    dataset: PreparedDataset, folder: Path, backbone: Path
):
    config = settings(backbone)
    progress = train(config, dataset, folder / "epochs")
    assert progress.epochs == 3
    kept = fit.best_model(config, dataset, folder / "epochs", progress)
    stored = keras.models.load_model(backbone)
    for ours, theirs in zip(
        values(kept, layers.Conv2D), values(stored, layers.Conv2D), strict=True
    ):
        assert (ours == theirs).all()
    rows = dataset.indices("validation")
    outputs = kept.predict(dataset.images[rows], verbose=0)[:, 0]
    accuracy = np.mean((outputs >= 0.5) == dataset.labels[rows])
    best = progress.best(config.training)[0]
    assert accuracy == pytest.approx(progress.history["val_accuracy"][best - 1])


def test_a_second_head_uses_the_features_of_the_first(
    dataset: PreparedDataset, folder: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
):
    train(settings(backbone), dataset, folder / "first")
    (file,) = (folder / "runs/features").glob("*.npy")
    inode = file.stat().st_ino
    train(settings(backbone, "optimizer.learning_rate=0.01"), dataset, folder / "second")
    assert [path.stat().st_ino for path in (folder / "runs/features").glob("*.npy")] == [inode]
    other = shutil.copy(backbone, folder / "other.keras")
    model = keras.models.load_model(other)
    model.layers[2].kernel.assign(model.layers[2].kernel * 2)
    model.save(other)
    train(settings(other), dataset, folder / "third")
    assert len(list((folder / "runs/features").glob("*.npy"))) == 2


@pytest.mark.parametrize("layers_", ["top", "all"])
def test_fine_tuning_starts_from_the_best_head_and_keeps_the_normalisation(
    dataset: PreparedDataset, folder: Path, backbone: Path, layers_: str
):
    config = settings(
        backbone, f"training.fine_tune={layers_}", "training.fine_tune_blocks=1",
        "training.fine_tune_learning_rate=0.01", "model.dropout=0",
    )  # fmt: skip
    progress = train(config, dataset, folder / "epochs")
    assert progress.epochs == 5
    last = architectures.build(config.model, config.image.shape, 2)
    fit.assign_weights(last, folder / "epochs", 5)
    stored = keras.models.load_model(backbone)
    assert equal(values(last, layers.Conv2D), values(stored, layers.Conv2D)) == (
        [False] * 4 if layers_ == "all" else [True, True, False, False]
    )
    normalised = layers.BatchNormalization
    assert all(equal(values(last, normalised), values(stored, normalised)))


def test_fine_tuning_never_loses_to_its_own_head(
    dataset: PreparedDataset, folder: Path, backbone: Path
):
    config = settings(
        backbone, "training.fine_tune=all", "training.fine_tune_learning_rate=10",
        "optimizer.learning_rate=0.0001",
    )  # fmt: skip
    progress = train(config, dataset, folder / "epochs")
    best, value = progress.best(config.training)
    assert best <= 3
    assert value == min(progress.history["val_loss"])
    kept = fit.best_model(config, dataset, folder / "epochs", progress)
    stored = keras.models.load_model(backbone)
    for ours, theirs in zip(
        values(kept, layers.Conv2D), values(stored, layers.Conv2D), strict=True
    ):
        assert (ours == theirs).all()


# in the first phase, between, in the second
@pytest.mark.parametrize(
    "killed_after", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3)), 4]
)
def test_a_training_that_is_killed_in_either_phase_ends_with_the_same_weights(
    dataset: PreparedDataset, folder: Path, backbone: Path, killed_after: int
):
    config = settings(backbone, "training.fine_tune=all")

    whole = train(config, dataset, folder / "whole")
    with pytest.raises(Killed):
        train(config, dataset, folder / "killed", Kill(folder / "killed", killed_after))
    again = train(config, dataset, folder / "killed")
    assert again.history == whole.history
    assert same_variables(folder / "whole", folder / "killed", 5)


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", [2, 3])
def test_patience_ends_only_the_phase_of_the_head(
    dataset: PreparedDataset, folder: Path, backbone: Path, killed_after: int
):
    config = settings(
        backbone, "training.fine_tune=all", "training.epochs=50", "training.patience=1",
        "training.monitor=val_accuracy", "optimizer.learning_rate=1e-9",
    )  # fmt: skip
    whole = train(config, dataset, folder / "whole")
    assert whole.head_epochs == 2
    assert whole.epochs in (3, 4)  # the fine-tuning has a patience of its own
    with pytest.raises(Killed):
        train(config, dataset, folder / "killed", Kill(folder / "killed", killed_after))
    again = train(config, dataset, folder / "killed")
    assert again.history == whole.history
    assert (again.head_epochs, again.stopped) == (2, whole.stopped)
    assert same_variables(folder / "whole", folder / "killed", whole.epochs)


def test_the_weights_are_part_of_what_identifies_a_training(
    dataset: PreparedDataset, folder: Path, backbone: Path
):
    other = Path(shutil.copy(backbone, folder / "backbone.keras"))
    first = identity.job_key(settings(other), dataset)
    model = keras.models.load_model(other)
    model.layers[2].kernel.assign(model.layers[2].kernel * 2)
    model.save(other)
    assert identity.job_key(settings(other), dataset) != first


def test_models_of_keras_applications_take_images_of_one_channel(folder: Path):
    config = compose.config_of(
        "model=pretrained", "model.backbone=MobileNetV2", "model.weights=null", "image.height=32",
        "image.width=32", "image.channels=1",
    )  # fmt: skip
    model = architectures.build(config.model, config.image.shape, 3)
    outputs = model.predict(np.zeros((2, 32, 32, 1), np.uint8), verbose=0)
    assert outputs.shape == (2, 3)
    assert [phase.name for phase in phases.phases(config)] == ["whole"]
    assert len([layer for layer in model.layers if len(layer.output.shape) == 4]) > 50  # flat


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EfficentNetV2B0", r"The nearest name is EfficientNetV2B0\. Or give the path"),
        ("/nowhere/x.keras", r"/nowhere/x\.keras: no such file"),
    ],
)
def test_a_backbone_that_does_not_exist_is_refused(folder: Path, name: str, message: str):
    with pytest.raises(InputError, match=message):
        architectures.build(settings(name).model, (32, 32, 3), 2)


def test_images_of_another_size_are_refused_with_the_setting(folder: Path, backbone: Path):
    with pytest.raises(InputError, match=r"does not take images of 32 x 32 x 3.*Set image\.height"):
        architectures.build(settings(backbone).model, (32, 32, 3), 2)


def test_without_network_the_message_names_the_file_and_the_places(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KERAS_HOME", str(folder / "home"))
    monkeypatch.setenv(backbones.MIRROR, "http://127.0.0.1:9/weights/")
    with pytest.raises(InputError) as caught:
        backbones.weights_file(settings("MobileNetV2").model)
    for text in (
        "from http://127.0.0.1:9/weights/mobilenet_v2", "Put the file mobilenet_v2",
        str(folder / "home/models"), backbones.MIRROR, "model.weights",
    ):  # fmt: skip
        assert text in str(caught.value)
    assert not list((folder / "home/models").iterdir())


def from_mirror(name: str, content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the weights file of a model, from a mirror with this content."""
    monkeypatch.setenv("KERAS_HOME", str(folder / "home"))
    (folder / backbones._file_that_keras_wants(name).name).write_bytes(content)
    monkeypatch.setenv(backbones.MIRROR, folder.as_uri())
    file = backbones.weights_file(settings(name).model)
    assert file
    return file


def test_weights_from_a_mirror_are_stored_for_the_next_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Keras has no digest for those of MobileNet."""
    file = from_mirror("MobileNet", b"weights", folder, monkeypatch)
    assert file.read_bytes() == b"weights"
    monkeypatch.setenv(backbones.MIRROR, "http://127.0.0.1:9")
    assert backbones.weights_file(settings("MobileNet").model) == file


def test_weights_with_another_digest_than_keras_expects_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(InputError, match="another content than Keras expects"):
        from_mirror("EfficientNetV2B0", b"something else", folder, monkeypatch)
    assert not list((folder / "home/models").iterdir())


@pytest.mark.parametrize(
    ("name", "license_"),
    [("EfficientNetV2B0", "Apache-2.0"), ("ResNet50", "MIT"), ("DenseNet121", "BSD-3-Clause")],
)
def test_the_license_of_weights_of_keras_applications_is_known(name: str, license_: str):
    assert backbones.license_of(settings(name).model) == license_


@pytest.mark.slow
def test_every_model_of_keras_applications_has_a_license_and_a_size():
    for name in backbones.names():
        assert backbones.license_of(settings(name).model)
        size = compose.config_of("image.height=100", "image.width=100").image
        assert " x " in backbones.remark_on_size(settings(name).model, size)


def test_the_license_of_a_file_is_what_a_setting_says(backbone: Path):
    assert backbones.license_of(settings(backbone).model) == ""
    named = settings(backbone, "model.license=CC0-1.0")
    assert backbones.license_of(named.model) == "CC0-1.0"


def test_images_of_another_size_than_the_backbone_was_trained_on_get_a_remark():
    large = compose.config_of("model=pretrained_large")
    assert (large.image.height, large.image.width) == (384, 384)
    assert backbones.remark_on_size(large.model, large.image) == ""
    other = compose.config_of("model=pretrained", "model.backbone=InceptionV3")
    remark = backbones.remark_on_size(other.model, other.image)
    assert "299 x 299" in remark
    assert "image.height=299 image.width=299" in remark


@pytest.mark.parametrize(("images", "epochs"), [(200, 20), (1229, 6), (20_000, 3)])
def test_fewer_images_are_fine_tuned_for_more_epochs(
    dataset: PreparedDataset, folder: Path, images: int, epochs: int
):
    rows = [replace(dataset.rows[0], split="train")] * images
    many = replace(dataset, rows=rows, labels=np.zeros(images, int))
    config = compose.config_of("model=pretrained")
    assert automatic.resolved(config, many, folder).fine_tune_epochs == epochs
