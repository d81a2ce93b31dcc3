"""Unusual and damaged image files: each is read, or is skipped with a reason."""

import csv
import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data import images, near_duplicates
from image_classifier.data.images import Rendering, decode, inspect
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.prepare import prepare
from image_classifier.stages.split import split


def settings(*overrides: str) -> Config:
    return compose.config_of("image.height=16", "image.width=16", *overrides)


def noise(seed: int, height: int = 20, width: int = 24) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_with_header(width: int, height: int) -> bytes:
    """Return a small PNG whose header claims this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * min(height, 100)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(1), "JPEG", exif=exif)


def sixteen_bit() -> bytes:
    values = np.random.default_rng(2).integers(0, 65535, (20, 24), dtype=np.uint16)
    return encoded(Image.fromarray(values), "PNG")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
GOOD = {
    "sixteen bit.png": sixteen_bit(),
    "cmyk.jpg": encoded(noise(3).convert("CMYK"), "JPEG"),
    "palette.png": encoded(noise(4).quantize(16), "PNG"),
    "alpha.png": encoded(noise(5).convert("RGBA"), "PNG"),
    "animated.gif": encoded(noise(6), "GIF", save_all=True, append_images=[noise(7)]),
    "rotated.jpg": rotated(),
    "wide.png": encoded(noise(8, 6, 30_000), "PNG"),
    "two images.mpo": encoded(noise(9), "MPO", save_all=True, append_images=[noise(10)]),
    "bitmap.bmp": encoded(noise(11), "BMP"),
    "scan.tiff": encoded(noise(12), "TIFF", compression="tiff_lzw"),
    "web.webp": encoded(noise(13), "WEBP", lossless=True),
    "new.avif": encoded(noise(14, 64, 64), "AVIF"),
    "portable.ppm": encoded(noise(15), "PPM"),
    "two thousand.jp2": encoded(noise(16, 64, 64), "JPEG2000"),
    "targa.tga": encoded(noise(17), "TGA"),
    "icon.ico": encoded(noise(18, 32, 32), "ICO"),
    "Röntgen 胸部 🩻.png": encoded(noise(19), "PNG"),
    "-rf.png": encoded(noise(20), "PNG"),
    "narrow\u202fspace.png": encoded(noise(21), "PNG"),
    "$dollar$ _{x.png": encoded(noise(22), "PNG"),
    'quote",comma.png': encoded(noise(23), "PNG"),
}
BAD = {
    "truncated.jpg": (encoded(noise(30), "JPEG")[:-200], "a part of it is missing"),
    "empty.jpg": (b"", "not an image"),
    "without width.png": (png_with_header(0, 30), "."),
    "without pixels.gif": (b"GIF89a\x00\x00\x00\x00\x00\x00\x00;", "."),
    "text.jpg": (b"not an image", "not an image"),
    "bomb.png": (png_with_header(30_000, 30_000), "89,478,485 pixels or more: scale it down"),
    "smaller bomb.png": (png_with_header(10_000, 10_000), "89,478,485 pixels or more"),
    "postscript.jpg": (POSTSCRIPT, "not an image"),
}


def test_unusual_images_are_read_and_damaged_ones_are_skipped_with_a_reason(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    for label in ("cat", "dog"):
        (empty_project / "pets" / label).mkdir(parents=True)
        for index in range(30):
            path = empty_project / "pets" / label / f"{index}.png"
            noise(100 * len(GOOD) + index + 50 * (label == "dog")).save(path)
    for name, content in GOOD.items():
        (empty_project / "pets" / "cat" / name).write_bytes(content)
    for name, (content, _) in BAD.items():
        (empty_project / "pets" / "dog" / name).write_bytes(content)
    for name in ("Thumbs.db", ".DS_Store", "._1.png", "desktop.ini"):
        (empty_project / "pets" / "dog" / name).write_bytes(b"x")
    (empty_project / "pets" / "__MACOSX" / "cat").mkdir(parents=True)
    (empty_project / "pets" / "__MACOSX" / "cat" / "._1.png").write_bytes(b"x")
    pets = settings(
        "dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat"
    )
    fetch(pets)
    split(pets)
    prepare(pets)
    with paths.SKIPPED.open(newline="") as file:
        listed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(listed) == set(BAD)
    for name, (_, reason) in BAD.items():
        assert re.search(reason, listed[name]), (name, listed[name])
    assert len(np.load(paths.IMAGES)) == 60 + len(GOOD)
    assert f"{len(BAD)} files skipped, see {paths.SKIPPED}" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(GOOD))
def test_an_unusual_image_has_a_size_and_pixels(name: str):
    facts, small = inspect(GOOD[name])
    assert facts.width * facts.height > 0
    assert small.shape == (120, 120, 1)
    assert decode(GOOD[name], Rendering(8, 9, 3, scale="own")).shape == (8, 9, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as images.py does
def test_an_image_just_below_the_pixel_limit_is_read_and_one_above_is_not():
    side = images.MAXIMUM_PIXELS // 30_000
    assert inspect(encoded(Image.new("1", (30_000, side)), "PNG"))[0].height == side
    with pytest.raises(UnreadableImage, match="scale it down"):
        inspect(encoded(Image.new("1", (30_000, side + 1)), "PNG"))


def test_a_decompression_bomb_inside_an_icon_is_not_decoded():
    bomb = png_with_header(10_000, 10_000)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(bomb), 22) + bomb
    with pytest.raises(UnreadableImage):
        decode(icon, Rendering(8, 8, 3, scale="own"))


def test_a_postscript_file_does_not_start_ghostscript(tmp_path: Path):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    (tmp_path / "x.jpg").write_bytes(POSTSCRIPT)
    code = "import sys; from pathlib import Path; " \
        "from image_classifier.data.near_duplicates import fingerprint; " \
        "print(fingerprint(Path(sys.argv[1])))"  # fmt: skip
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.jpg")],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(near_duplicates.__file__).parents[2])},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "not an image" in output
    assert not (tmp_path / "ran").exists()


def test_a_disk_error_is_not_reported_as_a_damaged_image():
    failing = Path("/proc/self/mem")  # reading its start is an input/output error
    if not failing.exists():
        pytest.skip("there is no /proc here")
    for read in (
        near_duplicates.fingerprint,
        lambda path: decode(path, Rendering(8, 8, 3, scale="own")),
    ):
        with pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"):
            read(failing)
