"""What an image that a client sends may be, found in its header before it is decoded."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from image_classifier.data import dicom
from image_classifier.data.images import reason_of
from image_classifier.data.unreadable import UnreadableImage

# not EPS, which runs Ghostscript, and not ICO, which can contain another image
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MARKER, START_OF_SCAN = 0xFF, 0xDA  # bytes
MAXIMUM_SCANS = 100  # a progressive JPEG has about ten; each takes as long as a whole image


def check_header(content: bytes, maximum_pixels: int, dicom_allowed: bool) -> None:
    """Refuse an image that would take too much memory or time, before it is decoded.

    Raises:
        UnreadableImage: its format is not served, it has too many pixels, or it is a JPEG with
            more scans than any program writes.
    """
    try:
        if dicom.is_dicom(content):
            if not dicom_allowed:
                raise UnreadableImage("a DICOM file: the setting serving.dicom does not allow it")
            width, height = dicom.facts(content)[2:4]
        else:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(f"more than {maximum_pixels} pixels: scale it down") from None
    except UnidentifiedImageError:
        raise UnreadableImage(f"not an image file ({', '.join(FORMATS)}): send one") from None
    except Exception as error:  # Pillow raises a dozen kinds, struct.error among them
        raise UnreadableImage(reason_of(error)) from None
    if width * height > maximum_pixels:
        raise UnreadableImage(
            f"{width} x {height}, more than {maximum_pixels} pixels: scale it down"
        )
    if scans(content) > MAXIMUM_SCANS:
        raise UnreadableImage(
            f"a JPEG of more than {MAXIMUM_SCANS} scans: save it as a baseline JPEG"
        )


def scans(content: bytes) -> int:
    """Return how many scans a JPEG may have at most; `bytes.count` takes longer."""
    values = np.frombuffer(content, np.uint8)
    markers = np.flatnonzero(values[:-1] == MARKER)
    return int(np.count_nonzero(values[markers + 1] == START_OF_SCAN))
