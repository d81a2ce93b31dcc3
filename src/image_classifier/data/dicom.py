"""Reads DICOM, the format of medical images; needs the extra `dicom`.

Two tables of the standard lead from stored numbers to what a doctor sees: the modality LUT (for
example to Hounsfield units) and the VOI LUT (the window of brightness). Both are applied.
"""

import hashlib
import importlib.util
import io
import logging
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from image_classifier.data.depth import Values
from image_classifier.data.unreadable import MAXIMUM_PIXELS, UnreadableImage

if TYPE_CHECKING:
    from pydicom import Dataset

AVAILABLE = importlib.util.find_spec("pydicom") is not None
INSTALL = "pip install -e '.[dicom]'"
PREAMBLE = 128  # bytes before the letters DICM
HEAD = PREAMBLE + 4
# Tags that name a person or a place, from the confidentiality profile of DICOM PS3.15, table E.1-1
IDENTIFYING = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers",
    "OtherPatientIDs", "OtherPatientNames", "AccessionNumber", "InstitutionName",
    "InstitutionAddress", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
)  # fmt: skip


def is_dicom(content: bytes) -> bool:
    """Return whether a file begins like DICOM."""
    return content[PREAMBLE:HEAD] == b"DICM"


def facts(content: bytes) -> tuple[str, str, int, int, str, str, tuple[str, ...]]:
    """Return the fields of `ImageFacts`.

    The identifiers of patient and series are digests, so that no name gets into a record. Who
    knows all possible identifiers can still find the one of a digest.

    Raises:
        UnreadableImage: the file is damaged, or has several frames.
    """
    header = _read(content, pixels=False)
    bits = int(header.get("BitsStored", 16))
    colours = int(header.get("SamplesPerPixel", 1))
    mode = "RGB" if colours == 3 else "L" if _is_8_bit(header) else f"I;{bits}"
    return (
        "DICOM",
        mode,
        int(header.Columns),
        int(header.Rows),
        _digest(str(header.get("PatientID", "") or "")),
        _digest(str(header.get("SeriesInstanceUID", "") or "")),
        tuple(name for name in IDENTIFYING if header.get(name)),
    )


def identifying_tags(example: str, number: int) -> str:
    """Return a remark on files with tags that may identify a person."""
    return (
        f"{number} DICOM files have tags that may identify a person, such as PatientName, e.g. "
        f"{example}. `fetch` copies the files as they are to build/raw and DVC's cache. If other "
        f"people can read these, or the DVC remote that you push to, remove the tags from the "
        f"files first."
    )


def load(content: bytes) -> Image.Image | Values:
    """Return what a viewer would show: values, or an image where the file has 8 bits.

    Raises:
        UnreadableImage: the file is damaged, has several frames, or needs a decoder that is not
            installed.
    """
    from pydicom.pixels.processing import (
        apply_modality_lut,
        apply_voi_lut,
        convert_color_space,
    )

    header = _read(content, pixels=True)
    try:
        stored = header.pixel_array
    except MemoryError:
        raise
    except Exception:
        name = getattr(header.file_meta.get("TransferSyntaxUID", ""), "name", "")
        raise UnreadableImage(
            f"its pixels are damaged, or compressed in a way that is not installed ({name})"
        ) from None
    kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if stored.ndim == 3:
        if kind.startswith("YBR") and stored.dtype == np.uint8:
            stored = convert_color_space(stored, kind, "RGB", per_frame=True)
        if stored.dtype != np.uint8:
            raise UnreadableImage("a DICOM file in colour with more than 8 bits")
        return Image.fromarray(np.asarray(stored))
    if kind == "PALETTE COLOR":
        raise UnreadableImage("a DICOM file with a palette of colours: save it as PNG")
    shown = np.asarray(apply_voi_lut(apply_modality_lut(stored, header), header, prefer_lut=True))
    if kind == "MONOCHROME1":  # white is the lowest value
        low, high = _range(header)
        shown = low + high - shown.astype(np.float32)
    if _is_8_bit(header):
        return Image.fromarray(np.asarray(np.rint(shown).clip(0, 255), np.uint8))
    return np.asarray(shown, np.float32)


def _read(content: bytes, pixels: bool) -> "Dataset":
    if not AVAILABLE:
        raise UnreadableImage(f"a DICOM file: to read it, run {INSTALL}")
    import pydicom

    # its warnings are about details of the standard, one for each file
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    try:
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels)
        frames, size = int(header.get("NumberOfFrames", 1) or 1), header.Rows * header.Columns
    except MemoryError:
        raise
    except Exception:
        raise UnreadableImage("a damaged DICOM file, or one without an image") from None
    if frames > 1:
        raise UnreadableImage(f"a DICOM file of {frames} frames: save each as a file of its own")
    if not 0 < size < MAXIMUM_PIXELS:
        raise UnreadableImage(f"a DICOM file of {size:,} pixels: scale it down")
    return header


def _is_8_bit(header: "Dataset") -> bool:
    """Return whether the values that are shown fit into 8 bits as they are."""
    tables = ("ModalityLUTSequence", "VOILUTSequence", "WindowCenter")
    plain = float(header.get("RescaleSlope", 1) or 1) == 1 and not header.get("RescaleIntercept", 0)
    unsigned = not header.get("PixelRepresentation", 0)
    stored = int(header.get("BitsStored", 16))
    return stored == 8 and unsigned and plain and not any(name in header for name in tables)


def _range(header: "Dataset") -> tuple[float, float]:
    """Return the smallest and largest value that a file can show."""
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        if name in header:
            return 0.0, 2.0 ** int(header[name].value[0].LUTDescriptor[2]) - 1
    bits = int(header.get("BitsStored", 16))
    signed = bool(header.get("PixelRepresentation", 0))
    ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope = float(header.get("RescaleSlope", 1) or 1)
    intercept = float(header.get("RescaleIntercept", 0) or 0)
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12] if name.strip() else ""
