from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.stages.train import check
from image_classifier.training import batches
from image_classifier.training.augmentation import OPERATIONS


def settings(*overrides: str) -> Config:
    return compose.config_of("training.batch_size=8", *overrides)


ARTICLE = settings()
NONE = settings("augmentation=none")


def epochs(dataset: PreparedDataset, seed: int, which: range, config: Config = ARTICLE):
    training = config.training.model_copy(update={"seed": seed})
    data = batches.training_batches(
        dataset, config.model_copy(update={"training": training}), which
    )
    return [tuple(part.numpy() for part in batch) for batch in data]


def test_an_epoch_contains_every_training_image_once(dataset: PreparedDataset):
    found = epochs(dataset, 0, range(1), NONE)
    assert [len(images) for images, _ in found] == [8, 8, 5]
    images = np.concatenate([images for images, _ in found])
    expected = {image.tobytes() for image in dataset.images[:21]}
    assert {image.tobytes() for image in images} == expected


def test_labels_stay_with_their_images(dataset: PreparedDataset):
    label = {
        image.tobytes(): number
        for image, number in zip(dataset.images, dataset.labels, strict=True)
    }
    for images, labels in epochs(dataset, 0, range(2), NONE):
        assert labels.shape == (len(images), 1)
        assert [label[image.tobytes()] for image in images] == list(labels[:, 0])


def test_order_and_pixels_change_with_the_epoch_and_the_seed(dataset: PreparedDataset):
    first, second = epochs(dataset, 0, range(2))[:3], epochs(dataset, 0, range(2))[3:]
    other = epochs(dataset, 1, range(1))
    assert not (first[0][0] == second[0][0]).all()
    assert not (first[0][0] == other[0][0]).all()


def test_a_later_start_gives_the_same_pixels(dataset: PreparedDataset):
    whole, later = epochs(dataset, 3, range(4)), epochs(dataset, 3, range(2, 4))
    for (a, _), (b, _) in zip(whole[6:], later, strict=True):
        assert (a == b).all()


def test_the_number_of_threads_does_not_change_a_pixel(dataset: PreparedDataset):
    data = batches.training_batches(dataset, ARTICLE, range(2))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    for (a, _), (b, _) in zip(data, data.with_options(options), strict=True):
        assert (a.numpy() == b.numpy()).all()


def test_validation_and_test_images_are_never_changed(dataset: PreparedDataset):
    rows = dataset.indices("validation")
    images = np.concatenate([x.numpy() for x, _ in batches.plain_batches(dataset, rows, 2)])
    assert (images == dataset.images[rows]).all()


def test_the_same_image_looks_different_in_every_epoch(dataset: PreparedDataset):
    numbered = replace(dataset, labels=np.arange(30), classes=[str(n) for n in range(30)])
    seen = {
        images[labels[:, 2] == 1].tobytes()
        for images, labels in epochs(numbered, 0, range(6))
        if labels[:, 2].any()
    }
    assert len(seen) == 6


def test_batches_are_made_when_they_are_needed(dataset: PreparedDataset):
    data = batches.training_batches(dataset, ARTICLE, range(10**6))
    assert len(list(islice(data, 3))) == 3


def test_autotuning_is_off(dataset: PreparedDataset):
    """Autotuning makes the end of a training wait for its thread, for seconds."""
    data = batches.training_batches(dataset, ARTICLE, range(1))
    assert data.options().autotune.enabled is False


def test_memory_does_not_grow_with_the_images(dataset: PreparedDataset):
    """No mapping of the file outlives the batches that were read from it."""
    epochs(dataset, 0, range(1))
    list(batches.plain_batches(dataset, dataset.indices("test"), 2))
    maps = Path("/proc/self/maps")  # Linux only
    assert not maps.exists() or str(dataset.images_file) not in maps.read_text()


def test_a_new_operation_does_not_change_the_others(monkeypatch: pytest.MonkeyPatch):
    before = batches.draw_epoch(7, 0, 5)
    monkeypatch.setitem(OPERATIONS, "new", 2)
    after = batches.draw_epoch(7, 0, 5)
    assert after.draws.pop("new").shape == (5, 2)
    assert (after.order == before.order).all()
    for name, values in before.draws.items():
        assert (after.draws[name] == values).all()


@pytest.fixture
def unequal(dataset: PreparedDataset) -> PreparedDataset:
    """Three classes: of the 21 training images 14, 5 and 2."""
    labels = np.array([0] * 14 + [1] * 5 + [2] * 2 + [0, 1, 2] * 3)
    return replace(dataset, labels=labels, classes=["a", "b", "c"])


def test_balanced_sampling_shows_each_class_equally_often(unequal: PreparedDataset):
    config = settings("training.sampling=balanced")
    found = epochs(unequal, 0, range(2), config)
    assert len(found) == 6
    labels = np.concatenate([labels for _, labels in found[:3]])
    assert list(labels.sum(0)) == [7, 7, 7]
    rare = [image.tobytes() for x, y in found[:3] for image in x[y[:, 2] == 1]]
    assert len(set(rare)) == 7  # of two images, each time with another augmentation
    again = epochs(unequal, 0, range(1, 2), config)
    assert all((a[0] == b[0]).all() for a, b in zip(found[3:], again, strict=True))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("balanced", [21 / (3 * 14), 21 / (3 * 5), 21 / (3 * 2)]),
        ("{a: 1, b: 2.5, c: 9}", [1, 2.5, 9]),
    ],
)
def test_class_weights_are_the_weights_of_the_images(
    unequal: PreparedDataset, weights: str, expected: list[float]
):
    config = settings(f"training.class_weights={weights}", "training.label_smoothing=0.1")
    for _, labels, given in epochs(unequal, 0, range(1), config):
        assert given == pytest.approx(np.array(expected)[labels.argmax(1)])


def test_class_weights_of_two_classes(dataset: PreparedDataset):
    first, second = dataset.classes
    config = settings(f"training.class_weights={{{first}: 2, {second}: 3}}")
    for _, labels, given in epochs(dataset, 0, range(1), config):
        assert given == pytest.approx(2 + labels[:, 0])


def test_class_weights_of_other_classes_are_refused(unequal: PreparedDataset):
    config = settings("training.class_weights={a: 1, b: 2}")
    with pytest.raises(InputError, match=r"a weight for each class: a, b, c\. It has a, b\."):
        check(config, unequal)


def test_label_smoothing_spreads_a_share_over_the_classes(
    dataset: PreparedDataset, unequal: PreparedDataset
):
    smooth = settings("training.label_smoothing=0.3")
    values = np.unique(epochs(dataset, 0, range(1), smooth)[0][1])
    assert values == pytest.approx([0.15, 0.85])
    values = np.unique(epochs(unequal, 0, range(1), smooth)[0][1])
    assert values == pytest.approx([0.1, 0.8])
    validation = batches.plain_batches(unequal, unequal.indices("validation"), 4)
    assert set(np.unique(np.concatenate([y.numpy() for _, y in validation]))) == {0, 1}


@pytest.mark.parametrize("operations", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_mixed_images_have_mixed_labels(
    unequal: PreparedDataset, tmp_path: Path, operations: tuple[str, ...]
):
    """Every image has one brightness of its class, so each pixel tells where it came from."""
    images = np.empty_like(unequal.images)
    images[:] = np.array([0, 100, 200], np.uint8)[unequal.labels][:, None, None, None]
    np.save(tmp_path / "flat.npy", images)
    flat = replace(unequal, images_file=tmp_path / "flat.npy")
    overrides = [f"augmentation.{name}=1" for name in operations]
    config = settings("augmentation=none", *overrides)
    kinds = set()
    for x, y in epochs(flat, 0, range(3), config):
        assert y.sum(1) == pytest.approx(1)
        mean = y @ np.array([0, 100, 200])
        assert x.mean((1, 2, 3)) == pytest.approx(mean, abs=1)
        for image, label in zip(x, y, strict=True):
            if (label > 0).sum() > 1:
                kinds.add("cutmix" if len(np.unique(image)) > 1 else "mixup")
    assert kinds == set(operations)
    first, again = (epochs(flat, 0, which, config) for which in (range(3), range(2, 3)))
    for a, b in zip(first[6:], again, strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))
