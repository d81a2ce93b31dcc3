"""Images with more than 8 bits per channel: one scale for a dataset, the same everywhere."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.images import Rendering, decode, inspect, values_of
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.prepare import prepare
from image_classifier.stages.split import split

SIDE = 48


def picture(seed: int) -> np.ndarray:
    """A smooth picture, float64 of shape (SIDE, SIDE), values from 0 to 1."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return (smooth - smooth.min()) / np.ptp(smooth)


def tiff(values: np.ndarray, white_is_zero: bool = False, bits: int | None = None) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0 if white_is_zero else 1
    if bits:
        tags[281] = 2**bits - 1
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    encoded, content = cv2.imencode(".png", values)
    assert encoded
    return content.tobytes()


def pgm(values: np.ndarray) -> bytes:
    encoded, content = cv2.imencode(".pgm", values)
    assert encoded
    return content.tobytes()


def scaled(low: float, high: float, dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: (low + values * (high - low)).astype(dtype)


# how a camera or a scanner writes a picture, and the two values that are black and white
CAMERAS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "12 of 16 bits": ("png", lambda v: png(scaled(0, 4095, np.uint16)(v))),
    "10 of 16 bits": ("png", lambda v: png(scaled(0, 1023, np.uint16)(v))),
    "14 of 16 bits": ("tif", lambda v: tiff(scaled(0, 16383, np.uint16)(v))),
    "16 bits": ("png", lambda v: png(scaled(0, 65535, np.uint16)(v))),
    "thermal": ("tif", lambda v: tiff(scaled(51241, 52181, np.uint16)(v))),
    "signed": ("tif", lambda v: tiff(scaled(-1000, 1000, np.int32)(v))),
    "32 bits": ("tif", lambda v: tiff(scaled(0, 4095, np.int32)(v))),
    "0.0 to 1.0": ("tif", lambda v: tiff(scaled(0, 1, np.float32)(v))),
    "-1.0 to 1.0": ("tif", lambda v: tiff(scaled(-1, 1, np.float32)(v))),
    "white is zero": ("tif", lambda v: tiff(4095 - scaled(0, 4095, np.uint16)(v), True, 12)),
    "white is zero, 16": ("tif", lambda v: tiff(65535 - scaled(0, 65535, np.uint16)(v), True)),
    "portable": ("pgm", lambda v: pgm(scaled(0, 4095, np.uint16)(v))),
    "colours": ("png", lambda v: png(np.dstack([scaled(0, 4095, np.uint16)(v)] * 3))),
    "colours in TIFF": (
        "tif", lambda v: cv2.imencode(".tif", np.dstack([scaled(0, 4095, np.uint16)(v)] * 3))[1]
        .tobytes(),
    ),
}  # fmt: skip


@functools.cache
def settings(*overrides: str) -> Config:
    own = [
        "dataset=folder", "dataset.name=lab", "dataset.path=lab", "dataset.positive_class=b",
        f"image.height={SIDE}", f"image.width={SIDE}", "image.channels=1",
    ]  # fmt: skip
    return compose.config_of(*own, *overrides)


def write(ending: str, content: Callable[[np.ndarray], bytes], number: int = 30) -> None:
    for index in range(number):
        path = Path("lab", "ab"[index % 2], f"{index:02}.{ending}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(picture(index)))


def run() -> np.ndarray:
    fetch(settings())
    split(settings())
    prepare(settings())
    return np.load(paths.IMAGES)


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_dataset_uses_the_whole_range_whatever_its_depth(empty_project: Path, camera: str):
    write(*CAMERAS[camera])
    pixels = run()
    assert pixels.min() <= 5
    assert pixels.max() >= 250
    assert len(np.unique(pixels)) >= 200
    record = json.loads(paths.PREPARED.read_text())
    rendering = Rendering(SIDE, SIDE, 1, scale=tuple(record["scale"]))
    for index in (0, 7):
        content = next(Path("lab").rglob(f"{index:02}.*")).read_bytes()
        found = decode(content, rendering)[:, :, 0].astype(int)
        assert np.abs(found - 255 * picture(index)).max() <= 2  # white is white, too


def test_the_largest_value_of_an_image_decides_nothing(empty_project: Path):
    def content(values: np.ndarray) -> bytes:
        stored = scaled(0, 255, np.uint16)(values)
        if round(1e6 * values[0, 0]) % 2:
            stored[stored.argmax() // SIDE, stored.argmax() % SIDE] = 256
        return png(stored)

    write("png", content)
    pixels = run().astype(float)
    expected = [255 * picture(int(path.stem)) for path in sorted(Path("lab").rglob("*.png"))]
    assert abs(pixels.mean() - np.mean(expected)) < 2
    assert pixels.mean(axis=(1, 2, 3)).min() > 60


def test_a_defective_pixel_does_not_change_the_scale(empty_project: Path):
    def content(values: np.ndarray) -> bytes:
        stored = scaled(0, 4095, np.uint16)(cv2.resize(values, (200, 200)))
        stored[3, 3] = 65535
        return png(stored)

    write("png", content)
    run()
    assert json.loads(paths.PREPARED.read_text())["scale"][1] <= 4095


def test_images_of_8_bits_stay_as_they_are(empty_project: Path):
    write("png", lambda values: png(scaled(40, 90, np.uint8)(values)))
    pixels = run()
    assert (pixels.min(), pixels.max()) == (40, 90)
    assert json.loads(paths.PREPARED.read_text())["scale"] is None


def test_few_values_are_said_by_name(empty_project: Path, capsys: pytest.CaptureFixture):
    write("png", lambda values: png((values * 9).round().astype(np.uint8)))
    run()
    said = "30 of 30 prepared images have fewer than 16 different values, e.g. a/00.png"
    assert said in capsys.readouterr().out


def test_deep_images_that_training_lacks_are_refused(empty_project: Path):
    write("png", lambda values: png(scaled(0, 255, np.uint8)(values)))
    for name in ("train", "test"):
        for label in "ab":
            Path("lab", name, label).mkdir(parents=True)
            for path in sorted(Path("lab", label).glob("*.png"))[:7]:
                path.rename(Path("lab", name, label, path.name))
    for label in "ab":
        for path in Path("lab", label).glob("*.png"):
            path.unlink()
        Path("lab", label).rmdir()
        Path("lab", "test", label, "deep.png").write_bytes(
            png(scaled(0, 4095, np.uint16)(picture(98 + (label == "a"))))
        )
    with pytest.raises(InputError, match="2 images of validation and test have more than 8 bits"):
        run()
    with pytest.raises(
        UnreadableImage, match="more than 8 bits per channel, and no training image"
    ):
        decode(png(scaled(0, 4095, np.uint16)(picture(0))), Rendering(8, 8, 1))


def test_values_are_rounded_not_cut():
    values = np.full((4, 4), 15.9, np.float32)
    values[0, 0] = 0
    values[0, 1] = 255
    assert decode(tiff(values), Rendering(4, 4, 1, scale=(0, 255)))[3, 3] == 16


def test_deep_images_are_turned_upright(tmp_path: Path):
    upright = scaled(0, 4095, np.uint16)(picture(1))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(upright).copy()).save(buffer, "PNG", exif=exif)
    rendering = Rendering(SIDE, SIDE, 1, scale=(0, 4095))
    assert (decode(buffer.getvalue(), rendering) == decode(png(upright), rendering)).all()


def test_values_that_are_not_numbers_are_refused():
    values = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(UnreadableImage, match="pixels that are not numbers"):
        decode(tiff(values), Rendering(8, 8, 1, scale=(0, 1)))
    assert inspect(tiff(np.ones((8, 8), np.float32)))[0].mode == "F"


def test_only_deep_images_have_values(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(scaled(0, 255, np.uint8)(picture(0))))
    with pytest.raises(UnreadableImage, match="it has 8 bits"):
        values_of(tmp_path / "a.png")
