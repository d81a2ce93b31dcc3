"""The only image decoder: from files of any common format to arrays of one size.

Training, evaluation, prediction and serving all use `decode`, so an image has the same pixels
everywhere.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from image_classifier.project.files import read_bytes

Pixels = npt.NDArray[np.uint8]

# Increase it with every change of this module after which an image has other pixels. Models store
# it, and warn when they meet another one.
DECODER_VERSION = 1

# What cameras, scanners and screens write. The other formats of Pillow are not read: EPS runs
# Ghostscript, and rarely used decoders are rarely tested. JPEG includes MPO.
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "ICO",
)  # fmt: skip

# An image with this number of pixels or more is refused: a file of some kilobytes can claim any
# number, and this many take 360 MB as RGBA. It is the limit at which Pillow warns, and more than a
# camera with 85 megapixels takes.
MAXIMUM_PIXELS = 89_478_485


class UnreadableImage(ValueError):
    """The content is not an image that can be decoded; the text says why."""


@dataclass(frozen=True)
class ImageFacts:
    """The metadata of an image file: real format, colour mode, and size in pixels."""

    format: str
    mode: str
    width: int
    height: int


def inspect(content: bytes) -> tuple[ImageFacts, Pixels]:
    """Return the metadata of an encoded image, and a small grey copy of it.

    The whole image is decoded, to check that it is complete; a JPEG at a reduced scale, which is
    much faster.

    Returns:
        The metadata, and a uint8 array of shape (120, 120, 1).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    try:
        with _open(content) as image:
            facts = ImageFacts(image.format or "", image.mode, *image.size)
    except MemoryError:
        raise  # says nothing about the image
    except Exception as error:  # Pillow raises a dozen types, even struct.error
        raise UnreadableImage(_reason(error)) from error
    return facts, decode(content, 120, 120, 1)


def decode(content: bytes | Path, height: int, width: int, channels: int) -> Pixels:
    """Return an encoded image as pixels of the given size; the aspect ratio may change.

    The content decides the format, not the file name. EXIF rotation is applied, transparent pixels
    become black, 16-bit grey is scaled to 8 bits, and only the first frame of an animation is used.

    Args:
        content: The encoded image, or the path of its file.
        height: Height of the result.
        width: Width of the result.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8 array of shape (height, width, channels), values 0 to 255.

    Raises:
        UnreadableImage: the content cannot be decoded.
        OSError: the file cannot be read, which says nothing about the image.
    """
    mode = "RGB" if channels == 3 else "L"
    if isinstance(content, Path):
        content = read_bytes(content)
    try:
        with _open(content) as opened:
            # read a JPEG at the smallest scale that is still larger than needed (libjpeg's
            # scaled decoding); a square, because EXIF may swap height and width afterwards
            opened.draft(mode, (max(height, width), max(height, width)))
            image = ImageOps.exif_transpose(opened)
            image = _to_mode(image, mode)
            image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error)) from error
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def has_few_colours(content: bytes) -> bool:
    """Return whether an encoded image has at most 16 colours, or almost only two brightnesses.

    Masks and plain frames are such images; compression as JPEG adds colours in between.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    try:
        with _open(content) as image:
            if image.getcolors(16) is not None:
                return True
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error)) from error
    return is_two_valued(decode(content, 120, 120, 1))


def is_two_valued(pixels: Pixels) -> bool:
    """Return whether nine tenths of a grey image are near its darkest or brightest value."""
    low, high = int(pixels.min()), int(pixels.max())
    near = (high - low) // 16
    return bool(np.mean((pixels <= low + near) | (pixels >= high - near)) > 0.9)


def _open(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if 0 in image.size:
        raise UnreadableImage("it has no pixels")
    return image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # convert() would clip every value above 255
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise UnreadableImage("it has pixels that are not numbers")
        white = 65535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values / white * 255).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert(mode)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image file, or in a format that is not supported"
    if isinstance(error, Image.DecompressionBombError):
        return f"{MAXIMUM_PIXELS:,} pixels or more: scale it down"
    return str(error) or type(error).__name__


# a truncated file is an error, not an image with grey rows
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Pillow refuses more than twice this number, even inside other files, and warns above it
Image.MAX_IMAGE_PIXELS = MAXIMUM_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
