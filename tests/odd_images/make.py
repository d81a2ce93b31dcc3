"""Made the files of this folder: valid images with odd details.

Run it in this folder to make them again; then write `pixels.json` new, see test_odd_images.py.
"""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

SIDE = 24
noise = np.random.default_rng(0).normal(size=(SIDE, SIDE, 3))
smooth = cv2.GaussianBlur(noise, (0, 0), 3)
COLOURS = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
RGB = Image.fromarray(COLOURS)
GREY = RGB.convert("L")
DEEP = (np.asarray(GREY, np.uint16) * 16).astype(np.uint16)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", values)[1])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(content: bytes, kind: bytes, data: bytes, at_end: bool = False) -> bytes:
    place = len(content) - 12 if at_end else 33  # before IEND, or after IHDR
    return content[:place] + chunk(kind, data) + content[place:]


def exif(**tags: object) -> bytes:
    data = Image.Exif()
    for key, value in tags.items():
        data[int(key[1:], 16)] = value
    return data.tobytes()


def orientation(value: bytes) -> bytes:
    """EXIF whose orientation has the type and value of these 8 bytes."""
    entry = struct.pack(">H", 0x0112) + value
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)


def with_app1(content: bytes, data: bytes) -> bytes:
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + content[2:]


def tiff(values: np.ndarray, **tags: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for key, value in tags.items():
        directory[int(key[1:])] = value
    return encoded(Image.fromarray(values), "TIFF", tiffinfo=directory)


MEGABYTES = zlib.compress(bytes(3_000_000), 9)
JPEG = encoded(RGB, "JPEG", quality=90)
PROGRESSIVE = encoded(RGB, "JPEG", quality=90, progressive=True)
PNG = encoded(RGB, "PNG")
raw_profile = PngImagePlugin.PngInfo()
raw_profile.add_text("Comment", "x" * 70_000, zip=True)
FILES = {
    "no end marker.jpg": JPEG[:-2],
    "half an end marker.jpg": JPEG[:-1],
    "zeros for the end marker.jpg": JPEG[:-2] + bytes(2),
    "progressive, no end marker.jpg": PROGRESSIVE[:-2],
    "restart markers, no end marker.jpg": encoded(RGB, "JPEG", restart_marker_blocks=1)[:-2],
    "grey, no end marker.jpg": encoded(GREY, "JPEG")[:-2],
    "cmyk, no end marker.jpg": encoded(RGB.convert("CMYK"), "JPEG")[:-2],
    "text after the end.jpg": JPEG + b"garbage" * 9,
    "two end markers.jpg": JPEG + b"\xff\xd9",
    "grey in the last corner.jpg": encoded(Image.new("L", (24, 24), 128), "JPEG"),
    "orientation 6.jpg": encoded(RGB, "JPEG", exif=exif(x0112=6)),
    "orientation 99.jpg": with_app1(JPEG, orientation(b"\0\x03\0\0\0\x01\0\x63\0\0")),
    "orientation as text.jpg": with_app1(JPEG, orientation(b"\0\x02\0\0\0\x02A\0\0\0")),
    "orientation of an unknown type.jpg": with_app1(
        JPEG, orientation(b"\0\x63\0\0\0\x01\0\x06\0\0")
    ),
    "exif cut off.jpg": with_app1(JPEG, b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01"),
    "exif of noise.jpg": with_app1(JPEG, b"Exif\0\0" + COLOURS.tobytes()[:500]),
    "exif that points away.jpg": with_app1(
        JPEG, orientation(b"\0\x05\xff\xff\xff\xff\xff\xff\xff\xff")
    ),
    "profile of noise.jpg": encoded(RGB, "JPEG", icc_profile=COLOURS.tobytes()),
    "large zipped text.png": with_chunk(PNG, b"zTXt", b"Comment\0\0" + MEGABYTES),
    "large zipped text at the end.png": with_chunk(PNG, b"zTXt", b"C\0\0" + MEGABYTES, True),
    "large international text.png": with_chunk(PNG, b"iTXt", b"C\0\x01\0\0\0" + MEGABYTES),
    "large profile.png": with_chunk(PNG, b"iCCP", b"P\0\0" + MEGABYTES),
    "text that is not compressed.png": with_chunk(PNG, b"zTXt", b"Comment\0\0" + b"noise" * 9),
    "text.png": encoded(RGB, "PNG", pnginfo=raw_profile),
    "orientation 3.png": encoded(RGB, "PNG", exif=exif(x0112=3)),
    "exif of noise.png": with_chunk(PNG, b"eXIf", COLOURS.tobytes()[:300]),
    "profile of noise.webp": encoded(RGB, "WEBP", lossless=True, icc_profile=COLOURS.tobytes()),
    "transparent.png": encoded(RGB.convert("RGBA").rotate(45), "PNG"),
    "12 bits.png": png(DEEP),
    "12 bits of colour.png": png(COLOURS[:, :, ::-1].astype(np.uint16) * 16),
    "12 bits, orientation 8.tif": tiff(DEEP, x274=8),
    "12 bits, white is zero.tif": tiff(4095 - DEEP, x262=0, x281=4095),
    "1 bit, white is zero.tif": tiff(np.asarray(GREY.convert("1")), x262=0),
    "8 bits, white is zero.tif": tiff(np.asarray(GREY), x262=0),
    "signed.tif": tiff(DEEP.astype(np.int32) - 1000),
    "float.tif": tiff((DEEP / 4095).astype(np.float32)),
    "12 bits.pgm": bytes(cv2.imencode(".pgm", DEEP)[1]),
}

if __name__ == "__main__":
    for name, content in FILES.items():
        Path(name).write_bytes(content)
