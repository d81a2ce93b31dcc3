"""Images with more than 8 bits per channel: one scale for a whole dataset, and its use.

Medical, thermal and scientific cameras write values such as 0 to 4095, -1000 to 3000 or 0.0 to 1.0.
Their files do not say which value is black and which is white. A guess from one image would give
the same object another brightness in every image, so the scale is found once, from the training
images, and is stored with the model.
"""

import zlib
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
# The values that become 0 and 255. "own": the smallest and largest value of each image by itself,
# only to look at images and to compare them. None: images with more than 8 bits are refused.
Scale = tuple[float, float] | Literal["own"] | None

# The share of all pixels below the scale, and above it: single defective pixels do not count.
CLIPPED = 0.0001
SAMPLES = 8_000_000  # values in memory while the scale is found: 32 MB
PER_IMAGE = 100_000
FEW_LEVELS = 16  # an image with fewer different values than this was probably read wrongly


class NotNumbers(ValueError):
    """An image contains NaN or infinite values."""


def is_deep(mode: str) -> bool:
    """Return whether images of a mode have more than 8 bits per channel; see `ImageFacts.mode`."""
    return mode.startswith(("I", "F")) or mode.endswith(";16")


def find_scale(
    paths: Iterable[str], number: int, values_of: Callable[[str], Values]
) -> tuple[float, float]:
    """Return the values that become black and white: all but a few of the pixels lie between.

    Args:
        paths: The training images with more than 8 bits.
        number: How many they are.
        values_of: Returns the values of one image.
    """
    per_image = max(1000, min(PER_IMAGE, SAMPLES // number))
    samples = []
    for path in paths:
        values = values_of(path).ravel()
        if values.size > per_image:
            chosen = np.random.default_rng(zlib.crc32(path.encode()))
            values = values[chosen.integers(0, values.size, per_image)]
        samples.append(values)
    low, high = np.quantile(np.concatenate(samples), [CLIPPED, 1 - CLIPPED])
    return float(low), float(high)


def to_8_bits(values: Values, scale: Scale) -> npt.NDArray[np.uint8]:
    """Return values as 0 to 255, rounded; values outside the scale become 0 or 255.

    Raises:
        NotNumbers: a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NotNumbers
    low, high = scale if isinstance(scale, tuple) else (float(values.min()), float(values.max()))
    if high <= low:
        high = low + 1
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.asarray(np.rint(scaled).clip(0, 255), np.uint8)


def has_few_levels(pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether a prepared image has fewer than 16 different values."""
    return int(np.count_nonzero(np.bincount(pixels.ravel(), minlength=256))) < FEW_LEVELS
