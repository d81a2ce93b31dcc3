from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from image_classifier.config import compose
from image_classifier.config.schema import Augmentation
from image_classifier.data.dataset import PreparedDataset
from image_classifier.training import batches
from image_classifier.training.augmentation import DRAWS


def augmentation(*overrides: str) -> Augmentation:
    return compose.config_of(*overrides).augmentation


ARTICLE = augmentation()
NONE = augmentation("augmentation=none")


def epochs(dataset: PreparedDataset, seed: int, which: range, augmentation=ARTICLE):
    data = batches.training_batches(dataset, augmentation, 8, seed, which)
    return [(images.numpy(), labels.numpy()) for images, labels in data]


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
    data = batches.training_batches(dataset, ARTICLE, 8, 0, range(2))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    for (a, _), (b, _) in zip(data, data.with_options(options), strict=True):
        assert (a.numpy() == b.numpy()).all()


def test_validation_and_test_images_are_never_changed(dataset: PreparedDataset):
    rows = dataset.indices("validation")
    images = np.concatenate([x.numpy() for x, _ in batches.plain_batches(dataset, rows, 2)])
    assert (images == dataset.images[rows]).all()


def test_the_same_image_looks_different_in_every_epoch(dataset: PreparedDataset):
    numbered = replace(dataset, labels=np.arange(30))
    seen = {
        images[labels[:, 0] == 2].tobytes()
        for images, labels in epochs(numbered, 0, range(6))
        if 2 in labels
    }
    assert len(seen) == 6


def test_batches_are_made_when_they_are_needed(dataset: PreparedDataset):
    data = batches.training_batches(dataset, ARTICLE, 8, 0, range(10**6))
    assert len(list(islice(data, 3))) == 3


def test_autotuning_is_off(dataset: PreparedDataset):
    """Autotuning makes the end of a training wait for its thread, for seconds."""
    data = batches.training_batches(dataset, ARTICLE, 8, 0, range(1))
    assert data.options().autotune.enabled is False


def test_memory_does_not_grow_with_the_images(dataset: PreparedDataset):
    """No mapping of the file outlives the batches that were read from it."""
    epochs(dataset, 0, range(1))
    list(batches.plain_batches(dataset, dataset.indices("test"), 2))
    maps = Path("/proc/self/maps")  # Linux only
    assert not maps.exists() or str(dataset.images_file) not in maps.read_text()


def test_a_new_augmentation_does_not_change_the_others(monkeypatch: pytest.MonkeyPatch):
    _, before = batches._epoch_draws(7, 0, 5)
    monkeypatch.setattr(batches, "DRAWS", DRAWS + 2)
    batches._epoch_draws.cache_clear()
    _, after = batches._epoch_draws(7, 0, 5)
    batches._epoch_draws.cache_clear()
    assert after.shape == (5, DRAWS + 2)
    assert (after[:, :DRAWS] == before).all()
