import numpy as np
import pytest

from image_classifier.config import compose
from image_classifier.config.schema import Augmentation
from image_classifier.data.dataset import PreparedDataset
from image_classifier.training.augmentation import augment
from image_classifier.training.batches import draw_epoch
from image_classifier.training.trivial_augment import OPERATIONS as TRIVIAL
from image_classifier.training.trivial_augment import trivial_augment


def augmentation(*overrides: str) -> Augmentation:
    return compose.config_of(*overrides).augmentation


ARTICLE = augmentation()
NONE = augmentation("augmentation=none")
EPOCH = draw_epoch(0, 0, 400).draws
DRAWS = [{name: values[place] for name, values in EPOCH.items()} for place in range(400)]


def test_without_zoom_and_flip_nothing_changes(dataset: PreparedDataset):
    image = dataset.images[0]
    assert (augment(image, NONE, DRAWS[0]) == image).all()


def test_half_of_the_images_are_mirrored(dataset: PreparedDataset):
    flip = augmentation("augmentation.zoom=0")
    image = dataset.images[0]
    results = [augment(image, flip, draws) for draws in DRAWS]
    mirrored = sum((result == image[:, ::-1]).all() for result in results)
    assert all((r == image).all() or (r == image[:, ::-1]).all() for r in results)
    assert 150 < mirrored < 250


def test_zoom_stays_within_its_range_and_fills_the_border():
    """A white square on black: its size shows the zoom of each axis."""
    image = np.zeros((100, 100, 1), np.uint8)
    image[25:75, 25:75] = 255
    zoom = augmentation("augmentation.horizontal_flip=false")
    sizes = []
    for draws in DRAWS[:200]:
        result = augment(image, zoom, draws)[:, :, 0] > 127
        sizes.append((result.any(1).sum(), result.any(0).sum()))
    heights, widths = np.array(sizes).T
    for lengths in (heights, widths):  # 50 / 1.2 to 50 / 0.8
        assert 41 <= lengths.min() < 44
        assert 59 < lengths.max() <= 63
    assert (heights != widths).any()
    bright = np.full((50, 50, 1), 200, np.uint8)
    assert all(augment(bright, zoom, draws).min() == 200 for draws in DRAWS[:20])


def test_grey_images_keep_their_channel():
    image = np.zeros((10, 12, 1), np.uint8)
    assert augment(image, ARTICLE, DRAWS[0]).shape == (10, 12, 1)


def changed(image: np.ndarray, key: str, value: float) -> np.ndarray:
    """Return how an image looks with one kind of change only, for several draws."""
    settings = augmentation("augmentation=none", f"augmentation.{key}={value}")
    return np.stack([augment(image, settings, draws) for draws in DRAWS[:60]])


RAMP = np.tile(np.arange(60, 124, dtype=np.uint8)[None, :, None], (64, 1, 3))


def test_a_crop_shows_a_part_of_the_image():
    spans = np.ptp(changed(RAMP, "crop", 0.5)[:, :, :, 0].astype(int), axis=(1, 2))
    assert spans.max() > 58
    assert 40 < spans.min() < 50  # half the area is 0.71 of the width


def test_aspect_changes_width_and_height_separately():
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


def test_equalize_uses_all_grey_levels_in_the_given_share_of_images():
    spans = np.ptp(changed(RAMP, "equalize", 0.5).astype(int), axis=(1, 2, 3))
    assert set(np.unique(spans > 200)) == {True, False}
    assert (np.ptp(changed(RAMP[:, :, :1], "equalize", 1).astype(int), axis=(1, 2, 3)) > 200).all()


def test_jpeg_compression_changes_pixels():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 1), dtype=np.uint8)
    distance = np.abs(changed(noise, "jpeg_quality", 20).astype(int) - noise).mean((1, 2, 3))
    assert distance.max() > 25
    assert distance.min() < 5


def test_rotation_stays_within_its_range():
    bar = np.zeros((101, 101, 1), np.uint8)
    bar[48:53, 10:91] = 255
    angles = []
    for turned in changed(bar, "rotation", 20):
        rows, columns = np.nonzero(turned[..., 0] > 127)
        angles.append(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0])))
    assert -21 < min(angles) < -15
    assert 15 < max(angles) < 21


def test_translation_moves_by_a_share_of_the_size():
    square = np.zeros((100, 200, 1), np.uint8)
    square[40:60, 80:120] = 255
    lit = changed(square, "translation", 0.1)[..., 0] > 127
    rows = np.argmax(lit.any(2), axis=1) - 40
    columns = np.argmax(lit.any(1), axis=1) - 80
    assert (rows.min(), rows.max()) == (pytest.approx(-10, abs=2), pytest.approx(10, abs=2))
    assert (columns.min(), columns.max()) == (pytest.approx(-20, abs=3), pytest.approx(20, abs=3))


RED = np.full((8, 8, 3), (200, 60, 60), np.uint8)


def test_saturation_changes_how_far_the_channels_are_apart():
    spans = np.ptp(changed(RED, "saturation", 0.5).astype(int), axis=3).max((1, 2))
    assert spans.min() < 90
    assert spans.max() > 180


def test_hue_turns_the_colours():
    results = changed(RED, "hue", 60)[:, 0, 0].astype(int)
    assert results.max(1).min() > 195  # as bright as before
    assert (results[:, 1] > 150).any()  # to yellow
    assert (results[:, 2] > 150).any()  # to magenta


def test_colours_of_grey_images_are_left_alone():
    grey = np.full((8, 8, 1), 90, np.uint8)
    for key in ("saturation", "hue", "grey"):
        assert (changed(grey, key, 1) == 90).all()


def test_erasing_replaces_a_rectangle_by_noise_in_the_given_share_of_images():
    white = np.full((50, 60, 3), 255, np.uint8)
    areas = np.array([(result != 255).any(2).mean() for result in changed(white, "erasing", 0.5)])
    assert 15 < (areas > 0).sum() < 45
    assert areas[areas > 0].min() > 0.015
    assert 0.2 < areas.max() < 0.34


@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_augment_knows_every_operation_at_every_strength(channels: int):
    image = np.random.default_rng(0).integers(0, 255, (20, 24, channels), dtype=np.uint8)
    image[:, :12] //= 4
    changes = []
    for number in range(len(TRIVIAL)):
        operation = (number + 0.5) / len(TRIVIAL)
        for strength in (0, 0.5, 0.999):
            result = trivial_augment(image, np.array([operation, strength]))
            assert (result.shape, result.dtype) == (image.shape, np.uint8)
        changes.append(bool((result != image).any()))
    assert changes.count(False) == (1 if channels == 3 else 2)  # grey images have no colours


def test_trivial_augment_changes_the_given_share_of_images(dataset: PreparedDataset):
    settings = augmentation("augmentation=none", "augmentation.trivial=0.5")
    image = dataset.images[0]
    same = [(augment(image, settings, draws) == image).all() for draws in DRAWS]
    assert 0.5 < np.mean(same) < 0.65  # one of 14 operations changes nothing


def test_grey_removes_the_colours():
    colours = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert np.ptp(changed(colours, "grey", 1), axis=3).max() == 0


def test_every_preset_keeps_shape_and_type(dataset: PreparedDataset):
    for preset in (compose.CONF / "augmentation").glob("*.yaml"):
        settings = augmentation(f"augmentation={preset.stem}")
        for image in (dataset.images[0], dataset.images[0][:, :, :1]):
            result = augment(image, settings, DRAWS[0])
            assert (result.shape, result.dtype) == (image.shape, np.uint8)
