import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.data.images import Rendering, decode, inspect
from image_classifier.data.unreadable import UnreadableImage


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(height: int = 90, width: int = 120) -> Image.Image:
    """Dark on the left, bright on the right."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "format"),
    [("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"),
     ("P", "GIF"), ("1", "PNG"), ("I;16", "PNG"), ("LA", "PNG"), ("RGB", "BMP"), ("RGB", "WEBP")],
)  # fmt: skip
def test_common_formats_and_modes_decode_to_the_same_pixels(mode: str, format: str, channels: int):
    image = gradient()
    if mode == "I;16":
        content = encoded(Image.fromarray(np.asarray(image).astype(np.uint16) * 257), format)
    else:
        content = encoded(image.convert(mode), format)
    scale = (0.0, 65535.0) if mode == "I;16" else None
    pixels = decode(content, Rendering(30, 40, channels, scale=scale))
    assert pixels.shape == (30, 40, channels)
    assert pixels.dtype == np.uint8
    expected = decode(encoded(image, "PNG"), Rendering(30, 40, channels))
    coarse = abs(pixels.astype(int) - expected)[:, ::8].mean()
    assert coarse < (130 if mode == "1" else 8)
    assert pixels[:, :5].mean() < 60 < 190 < pixels[:, -5:].mean()


def test_the_content_decides_the_format_not_the_file_name(tmp_path: Path):
    path = tmp_path / "really_png.jpg"
    path.write_bytes(encoded(gradient(), "PNG"))
    assert inspect(path.read_bytes())[0].format == "PNG"
    assert (
        decode(path, Rendering(20, 20, 3)) == decode(path.read_bytes(), Rendering(20, 20, 3))
    ).all()


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    content = encoded(gradient(), "JPEG", exif=exif)
    pixels = decode(content, Rendering(30, 40, 1))
    assert pixels[:, :5].mean() > 190  # bright on the left now


def test_transparent_pixels_are_black_whatever_their_colour():
    image = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    assert decode(encoded(image, "PNG"), Rendering(10, 10, 3)).max() == 0


def test_a_jpeg_read_at_a_reduced_scale_is_near_the_full_decode():
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 255, (30, 30, 3), dtype=np.uint8))
    large = small.resize((1600, 1600), Image.Resampling.BICUBIC)
    content = encoded(large, "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(content)).resize((200, 200), Image.Resampling.BILINEAR))
    assert abs(decode(content, Rendering(200, 200, 3)).astype(int) - full).mean() < 2


@pytest.mark.parametrize("content", [b"", b"plain text", b"\xff\xd8\xff\xe0 not really"])
def test_a_file_that_is_not_an_image_is_unreadable(content: bytes):
    with pytest.raises(UnreadableImage):
        decode(content, Rendering(10, 10, 3))
    with pytest.raises(UnreadableImage):
        inspect(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_truncated_image_is_unreadable(format: str):
    content = encoded(gradient(400, 400), format)
    with pytest.raises(UnreadableImage):
        decode(content[: len(content) // 2], Rendering(10, 10, 3))
    with pytest.raises(UnreadableImage):
        inspect(content[: len(content) // 2])


def test_inspect_returns_the_real_format_mode_and_size():
    facts, small = inspect(encoded(gradient(90, 120), "PNG"))
    assert small.shape == (120, 120, 1)
    assert (facts.format, facts.mode, facts.width, facts.height) == ("PNG", "L", 120, 90)
