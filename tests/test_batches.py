from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from image_classifier import batches
from image_classifier.config import Augmentation
from image_classifier.dataset import PreparedDataset

ARTICLE = Augmentation(zoom=0.2, horizontal_flip=True)
NONE = Augmentation(zoom=0.0, horizontal_flip=False)
DRAWS = np.random.default_rng(0).random((400, 3))


def epochs(dataset: PreparedDataset, seed: int, which: range, augmentation=ARTICLE):
    data = batches.training_batches(dataset, augmentation, 8, seed, which)
    return [(images.numpy(), labels.numpy()) for images, labels in data]


def test_an_epoch_holds_every_training_image_once(dataset: PreparedDataset):
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


def test_without_zoom_and_flip_nothing_changes(dataset: PreparedDataset):
    image = dataset.images[0]
    assert (batches.augment(image, NONE, DRAWS[0]) == image).all()


def test_half_of_the_images_are_mirrored(dataset: PreparedDataset):
    flip = Augmentation(zoom=0.0, horizontal_flip=True)
    image = dataset.images[0]
    results = [batches.augment(image, flip, draws) for draws in DRAWS]
    mirrored = sum((result == image[:, ::-1]).all() for result in results)
    assert all((r == image).all() or (r == image[:, ::-1]).all() for r in results)
    assert 150 < mirrored < 250


def test_zoom_stays_within_its_range_and_fills_the_border():
    """A white square on black: its size tells the zoom, each axis its own."""
    image = np.zeros((100, 100, 1), np.uint8)
    image[25:75, 25:75] = 255
    zoom = Augmentation(zoom=0.2, horizontal_flip=False)
    sizes = []
    for draws in DRAWS[:200]:
        result = batches.augment(image, zoom, draws)[:, :, 0] > 127
        sizes.append((result.any(1).sum(), result.any(0).sum()))
    heights, widths = np.array(sizes).T
    for lengths in (heights, widths):  # 50 / 1.2 to 50 / 0.8
        assert 41 <= lengths.min() < 44
        assert 59 < lengths.max() <= 63
    assert (heights != widths).any()
    bright = np.full((50, 50, 1), 200, np.uint8)
    assert all(batches.augment(bright, zoom, draws).min() == 200 for draws in DRAWS[:20])


def test_the_same_image_looks_different_in_every_epoch(dataset: PreparedDataset):
    numbered = replace(dataset, labels=np.arange(30))
    seen = {
        images[labels[:, 0] == 2].tobytes()
        for images, labels in epochs(numbered, 0, range(6))
        if 2 in labels
    }
    assert len(seen) == 6


def test_grey_images_keep_their_channel():
    image = np.zeros((10, 12, 1), np.uint8)
    assert batches.augment(image, ARTICLE, DRAWS[0]).shape == (10, 12, 1)


def test_batches_come_lazily(dataset: PreparedDataset):
    data = batches.training_batches(dataset, ARTICLE, 8, 0, range(10**6))
    assert len(list(islice(data, 3))) == 3


def test_nothing_is_tuned_while_it_runs(dataset: PreparedDataset):
    """Autotuning makes the end of a training wait for its thread, for seconds."""
    data = batches.training_batches(dataset, ARTICLE, 8, 0, range(1))
    assert data.options().autotune.enabled is False


def test_memory_does_not_grow_with_the_images(dataset: PreparedDataset):
    """No mapping of the file outlives the batches that were read from it."""
    epochs(dataset, 0, range(1))
    list(batches.plain_batches(dataset, dataset.indices("test"), 2))
    maps = Path("/proc/self/maps")  # Linux only
    assert not maps.exists() or str(dataset.images_file) not in maps.read_text()
