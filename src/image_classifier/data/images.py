"""The only image decoder: from files of any common format to arrays of one size.

Training, evaluation, prediction and serving all use `decode`, so an image has the same pixels
everywhere.
"""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from image_classifier.data import dicom
from image_classifier.data.depth import NotNumbers, Scale, Values, is_deep, to_8_bits
from image_classifier.data.unreadable import MAXIMUM_PIXELS, UnreadableImage
from image_classifier.project.files import read_bytes

Pixels = npt.NDArray[np.uint8]
Fit = Literal["squash", "pad", "crop"]

# Increase it with every change of this module after which an image has other pixels. Models store
# it, and warn when they meet another one. 2: one scale for images with more than 8 bits.
DECODER_VERSION = 2

# What cameras, scanners and screens write. The other formats of Pillow are not read: EPS runs
# Ghostscript, and rarely used decoders are rarely tested. JPEG includes MPO.
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "ICO",
)  # fmt: skip

START_OF_JPEG, END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks of PNG that do not change the pixels

# how the eight orientations of EXIF are turned upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, PHOTOMETRIC, BITS, LARGEST = 0x0112, 262, 258, 281  # tags of EXIF and TIFF


@dataclass(frozen=True)
class Rendering:
    """How an image becomes an array.

    Attributes:
        height: Height of the array.
        width: Width of the array.
        channels: 3 for RGB, 1 for grey.
        fit: `squash` changes the aspect ratio, `pad` adds black at two sides, `crop` cuts off two
            sides.
        scale: For images with more than 8 bits; see `depth.Scale`.
    """

    height: int
    width: int
    channels: int
    fit: Fit = "squash"
    scale: Scale = None


@dataclass(frozen=True)
class ImageFacts:
    """The metadata of an image file.

    Attributes:
        format: The real format, such as JPEG.
        mode: Pillow's colour mode; with `;16` after it if Pillow would lose bits of a channel.
        width: Pixels of the file, before it is turned upright.
        height: Pixels of the file.
        patient: A digest of the PatientID of a DICOM file, or empty.
        series: A digest of the SeriesInstanceUID of a DICOM file, or empty.
        identifying: The tags of a DICOM file that may identify a person.
    """

    format: str
    mode: str
    width: int
    height: int
    patient: str = ""
    series: str = ""
    identifying: tuple[str, ...] = ()


def inspect(content: bytes) -> tuple[ImageFacts, Pixels]:
    """Return the metadata of an encoded image, and a small grey copy of it.

    The whole image is decoded, to check that it is complete; a JPEG at a reduced scale, which is
    much faster.

    Returns:
        The metadata, and a uint8 array of shape (120, 120, 1).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    if dicom.is_dicom(content):
        facts = ImageFacts(*dicom.facts(content))
    else:
        with _reasons(), _open(content) as image:
            mode = f"{image.mode};16" if _has_deep_colours(image, content) else image.mode
            facts = ImageFacts(image.format or "", mode, *image.size)
    return facts, decode(content, Rendering(120, 120, 1, scale="own"))


def decode(content: bytes | Path, rendering: Rendering, *, complete: bool = False) -> Pixels:
    """Return an encoded image as an array.

    The content decides the format, not the file name. EXIF rotation is applied, transparent pixels
    become black, and only the first frame of an animation is used.

    Args:
        content: The encoded image, or the path of its file.
        rendering: How the array is made.
        complete: Whether the content is known to be complete: `inspect` has read it before.

    Returns:
        uint8 array of shape (height, width, channels), values 0 to 255.

    Raises:
        UnreadableImage: the content cannot be decoded.
        OSError: the file cannot be read, which says nothing about the image.
    """
    mode = "RGB" if rendering.channels == 3 else "L"
    if isinstance(content, Path):
        content = read_bytes(content)
    with _reasons():
        # read a JPEG at the smallest scale that is still larger than needed (libjpeg's scaled
        # decoding); a square, because EXIF may swap height and width afterwards
        largest = max(rendering.height, rendering.width)
        loaded, turn = _load(content, mode, largest, complete)
        if isinstance(loaded, Image.Image):
            image = loaded
        else:
            if rendering.scale is None:
                raise UnreadableImage(
                    "it has more than 8 bits per channel, and no training image had: convert it to "
                    "8 bits"
                )
            image = Image.fromarray(to_8_bits(loaded, rendering.scale))
        if turn is not None:
            image = image.transpose(turn)
        image = _fitted(_to_mode(image, mode), rendering)
    shape = rendering.height, rendering.width, rendering.channels
    return np.asarray(image, dtype=np.uint8).reshape(shape)


def upright_size(content: bytes) -> tuple[int, int]:
    """Return width and height of an encoded image after EXIF rotation.

    Args:
        content: An image that is not a DICOM file.

    Raises:
        UnreadableImage: it is not an image.
    """
    with _reasons(), _open(content) as image:
        width, height = image.size
        swapped = _orientation(image) in range(5, 9)
        return (height, width) if swapped else (width, height)


def values_of(path: Path) -> Values:
    """Return the values of an image with more than 8 bits per channel: float32, of any shape.

    Raises:
        UnreadableImage: it cannot be decoded, or has 8 bits.
        OSError: the file cannot be read.
    """
    with _reasons():
        values, _ = _load(read_bytes(path), "L", 1)
    if isinstance(values, Image.Image):
        raise UnreadableImage("it has 8 bits per channel")
    return values


def has_few_colours(content: bytes) -> bool:
    """Return whether an encoded image has at most 16 colours, or almost only two brightnesses.

    Masks and plain frames are such images; compression as JPEG adds colours in between.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    if not dicom.is_dicom(content):
        with _reasons():
            image, _ = _load(content, "RGB", MAXIMUM_PIXELS)
            if isinstance(image, Image.Image) and image.getcolors(16) is not None:
                return True
    return is_two_valued(decode(content, Rendering(120, 120, 1, scale="own")))


def is_two_valued(pixels: Pixels) -> bool:
    """Return whether nine tenths of a grey image are near its darkest or brightest value."""
    low, high = int(pixels.min()), int(pixels.max())
    near = (high - low) // 16
    return bool(np.mean((pixels <= low + near) | (pixels >= high - near)) > 0.9)


def _load(
    content: bytes, mode: str, size: int, complete: bool = False
) -> tuple[Image.Image | Values, Image.Transpose | None]:
    """Return a whole image, deeper than 8 bits as its values, and how it is turned upright."""
    if dicom.is_dicom(content):
        return dicom.load(content), None
    try:
        image = _decoded(content, mode, size)
    except MemoryError:
        raise
    except Exception:
        if content.startswith(PNG_SIGNATURE):
            # Pillow limits the texts and profiles in a PNG; the pixels do not depend on them
            content = _without_texts(content)
            image = _decoded(content, mode, size)
        elif content.startswith(START_OF_JPEG):
            # it may lack its end marker only; with one, libjpeg fills what is missing
            image = _decoded(content + END_OF_JPEG, mode, size)
        else:
            raise
    if content.startswith(START_OF_JPEG) and not complete:
        refuse_incomplete_jpeg(content)
    values = _deep_values(image, content)
    return image if values is None else values, UPRIGHT.get(_orientation(image))


def _decoded(content: bytes, mode: str, size: int) -> Image.Image:
    image = _open(content)
    image.draft(mode, (size, size))
    image.load()
    return image


def _open(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except ValueError:
        if not content.startswith(PNG_SIGNATURE):
            raise
        image = Image.open(io.BytesIO(_without_texts(content)), formats=FORMATS)
    if 0 in image.size:
        raise UnreadableImage("it has no pixels")
    return image


def _without_texts(content: bytes) -> bytes:
    """Return a PNG without its texts and colour profile."""
    parts, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        end = start + 12 + length  # length, type, data, checksum
        if content[start + 4 : start + 8] not in TEXTS:
            parts.append(content[start:end])
        start = end
    return b"".join(parts)


def refuse_incomplete_jpeg(content: bytes) -> None:
    """Raise an UnreadableImage if a part of a JPEG is missing.

    libjpeg only warns of it, and Pillow does not pass the warning on; simplejpeg does.
    """
    content += END_OF_JPEG  # nothing but the end marker may be missing
    try:
        colours = simplejpeg.decode_jpeg_header(content)[2]
        simplejpeg.decode_jpeg(
            content,
            "CMYK" if colours == "CMYK" else "GRAY",
            min_height=1,
            min_width=1,
            min_factor=8,
        )
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise UnreadableImage("a part of it is missing: the file is cut off") from None


def _orientation(image: Image.Image) -> int:
    """Return the orientation of EXIF; 1, which is upright, if there is none that can be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
        return value if isinstance(value, int) else 1
    except MemoryError:
        raise
    except Exception:  # damaged EXIF: the pixels may be good
        return 1


def _has_deep_colours(image: Image.Image, content: bytes) -> bool:
    """Return whether Pillow would keep only the upper half of the channels' 16 bits."""
    if is_deep(image.mode):
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(BITS, (8,)))) > 8
    return image.format == "PNG" and content[24] == 16


def _deep_values(image: Image.Image, content: bytes) -> Values | None:
    """Return the values of an image with more than 8 bits; None for one with 8 bits."""
    if _has_deep_colours(image, content):
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None or values.dtype != np.uint16:
            raise UnreadableImage("16 bits per channel in a form that is not supported")
        if values.ndim == 3:
            values = cv2.cvtColor(values[:, :, :3], cv2.COLOR_BGR2RGB)
        return np.asarray(values, np.float32)
    if not is_deep(image.mode):
        return None
    values = np.asarray(image, dtype=np.float32)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0:
        # white is zero; what black is, the file says or its number of bits
        bits = image.tag_v2.get(BITS, (16,))[0]
        largest = 1.0 if image.mode == "F" else 2.0**bits - 1
        values = np.float32(image.tag_v2.get(LARGEST, (largest,))[0]) - values
    return np.asarray(values, np.float32)


def _fitted(image: Image.Image, rendering: Rendering) -> Image.Image:
    size, method = (rendering.width, rendering.height), Image.Resampling.BILINEAR
    match rendering.fit:
        case "pad":
            return ImageOps.pad(image, size, method)
        case "crop":
            return ImageOps.fit(image, size, method)
        case _:
            return image.resize(size, method, reducing_gap=2.0)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert(mode)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn every error of a decoder into an UnreadableImage with a reason for people."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise  # a MemoryError says nothing about the image
    except Exception as error:  # Pillow raises a dozen types, even struct.error
        raise UnreadableImage(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return why an image cannot be decoded, without names from Python."""
    text = str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not an image file, or in a format that is not supported"
    if isinstance(error, Image.DecompressionBombError):
        return f"{MAXIMUM_PIXELS:,} pixels or more: scale it down"
    if isinstance(error, NotNumbers):
        return "it has pixels that are not numbers"
    if "truncated" in text.lower():
        return "a part of it is missing: the file is cut off"
    # a decoder's own words, if they are words
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9 ,()-]*", text) and "buffer" not in text
    return f"it is damaged ({text})" if plain else "it is damaged"


# a truncated file is an error, not an image with grey rows
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Pillow refuses more than twice this number, even inside other files, and warns above it
Image.MAX_IMAGE_PIXELS = MAXIMUM_PIXELS // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # odd EXIF
# Pillow reads more than 8 bits with white as zero only in some orders of bytes
for key, form in [*TiffImagePlugin.OPEN_INFO.items()]:
    if key[1] == 1 and is_deep(form[0]):
        TiffImagePlugin.OPEN_INFO.setdefault((key[0], 0, *key[2:]), form)
