"""TrivialAugment: one random operation with a random strength.

Source: Müller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, 2021;
the operations and their strengths are those of its table 1, the wide ones.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from image_classifier.data.images import Pixels

Operation = Callable[[Image.Image, float], Image.Image]

SHEAR = 0.99  # of the height or width
SHIFT = 32  # pixels
ANGLE = 135  # degrees
ENHANCEMENT = 0.99  # from 1: from 0.01 to 1.99 of the original
LEAST_BITS = 2


def trivial_augment(image: Pixels, draws: npt.NDArray[np.float64]) -> Pixels:
    """Return an image with one operation.

    Args:
        image: uint8 array of shape (height, width, channels).
        draws: float64 array of shape (2,), uniform in [0, 1): decide the operation and its
            strength, with its sign.

    Returns:
        uint8 array of the same shape.
    """
    operation = OPERATIONS[int(draws[0] * len(OPERATIONS))]
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    changed = operation(picture, 2 * float(draws[1]) - 1)
    return np.asarray(changed, np.uint8).reshape(image.shape)


def _affine(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    def transform(image: Image.Image) -> Image.Image:
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )

    return transform


# each takes an image and a strength from -1 to 1
OPERATIONS: tuple[Operation, ...] = (
    lambda image, strength: image,
    lambda image, strength: ImageOps.autocontrast(image),
    lambda image, strength: ImageOps.equalize(image),
    lambda image, strength: image.rotate(ANGLE * strength, Image.Resampling.BILINEAR),
    lambda image, strength: ImageOps.solarize(image, round(255 * (1 - abs(strength)))),
    lambda image, strength: ImageOps.posterize(image, 8 - round((8 - LEAST_BITS) * abs(strength))),
    lambda image, strength: ImageEnhance.Color(image).enhance(1 + ENHANCEMENT * strength),
    lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + ENHANCEMENT * strength),
    lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + ENHANCEMENT * strength),
    lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + ENHANCEMENT * strength),
    lambda image, strength: _affine(1, SHEAR * strength, 0, 0, 1, 0)(image),
    lambda image, strength: _affine(1, 0, 0, SHEAR * strength, 1, 0)(image),
    lambda image, strength: _affine(1, 0, SHIFT * strength, 0, 1, 0)(image),
    lambda image, strength: _affine(1, 0, 0, 0, 1, SHIFT * strength)(image),
)
