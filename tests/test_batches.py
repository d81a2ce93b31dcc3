from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from image_classifier import config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.schema import Augmentation
from image_classifier.training import batches


def augmentation(*overrides: str) -> Augmentation:
    return config.from_hydra(config.compose(overrides)).augmentation


ARTICLE = augmentation()
NONE = augmentation("augmentation=none")
DRAWS = np.random.default_rng(0).random((400, batches.DRAWS))


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
    flip = augmentation("augmentation.zoom=0")
    image = dataset.images[0]
    results = [batches.augment(image, flip, draws) for draws in DRAWS]
    mirrored = sum((result == image[:, ::-1]).all() for result in results)
    assert all((r == image).all() or (r == image[:, ::-1]).all() for r in results)
    assert 150 < mirrored < 250


def test_zoom_stays_within_its_range_and_fills_the_border():
    """A white square on black: its size tells the zoom, each axis its own."""
    image = np.zeros((100, 100, 1), np.uint8)
    image[25:75, 25:75] = 255
    zoom = augmentation("augmentation.horizontal_flip=false")
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


def changed(image: np.ndarray, key: str, value: float) -> np.ndarray:
    """Return how an image looks with one kind of change only, for several draws."""
    settings = augmentation("augmentation=none", f"augmentation.{key}={value}")
    return np.stack([batches.augment(image, settings, draws) for draws in DRAWS[:60]])


RAMP = np.tile(np.arange(60, 124, dtype=np.uint8)[None, :, None], (64, 1, 3))


def test_a_crop_shows_a_part_of_the_picture():
    spans = np.ptp(changed(RAMP, "crop", 0.5)[:, :, :, 0].astype(int), axis=(1, 2))
    assert spans.max() > 58
    assert 40 < spans.min() < 50  # half the area is 0.71 of the width


def test_aspect_changes_width_and_height_apart():
    square = np.zeros((100, 100, 1), np.uint8)
    square[40:60, 40:60] = 255
    lit = changed(square, "aspect", 0.3)[..., 0] > 127
    heights, widths = lit.any(2).sum(1), lit.any(1).sum(1)
    assert (widths / heights).max() > 1.15
    assert (widths / heights).min() < 0.87


def test_contrast_keeps_the_mean_and_changes_the_spread():
    results = changed(RAMP, "contrast", 0.3).astype(float)
    assert np.allclose(results.mean((1, 2, 3)), RAMP.mean(), atol=1)
    spread = results.std((1, 2, 3)) / RAMP.std()
    assert 0.68 < spread.min() < 0.78
    assert 1.22 < spread.max() < 1.32


def test_gamma_makes_darker_and_lighter():
    means = changed(RAMP, "gamma", 0.3).mean((1, 2, 3))
    assert means.min() < RAMP.mean() - 10
    assert means.max() > RAMP.mean() + 10


def test_equalizing_uses_all_grey_levels_in_that_share_of_the_images():
    spans = np.ptp(changed(RAMP, "equalize", 0.5).astype(int), axis=(1, 2, 3))
    assert set(np.unique(spans > 200)) == {True, False}
    assert (np.ptp(changed(RAMP[:, :, :1], "equalize", 1).astype(int), axis=(1, 2, 3)) > 200).all()


def test_compression_leaves_its_traces():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 1), dtype=np.uint8)
    distance = np.abs(changed(noise, "jpeg_quality", 20).astype(int) - noise).mean((1, 2, 3))
    assert distance.max() > 25
    assert distance.min() < 5


def test_grey_takes_the_colours_away():
    colours = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert np.ptp(changed(colours, "grey", 1), axis=3).max() == 0


def test_every_preset_keeps_shape_and_type(dataset: PreparedDataset):
    for preset in (config.CONF / "augmentation").glob("*.yaml"):
        settings = augmentation(f"augmentation={preset.stem}")
        for image in (dataset.images[0], dataset.images[0][:, :, :1]):
            result = batches.augment(image, settings, DRAWS[0])
            assert (result.shape, result.dtype) == (image.shape, np.uint8)


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
