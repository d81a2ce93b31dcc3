"""MixUp and CutMix: training images that are made of two, with labels that are made of both.

Sources: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018; Yun et al., CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019.
"""

import numpy as np
import numpy.typing as npt

from image_classifier.data.images import Pixels


def mix(
    first: Pixels, second: Pixels, share: float, cut: npt.NDArray[np.float64]
) -> tuple[Pixels, float]:
    """Return a mixture of two images, and the share of the first.

    Args:
        first: uint8 array of shape (height, width, channels).
        second: Another one of the same shape.
        share: The share of the first, 0 to 1.
        cut: float64 array of shape (2,): the centre of the rectangle that CutMix cuts out, as
            shares of height and width; NaN to mix by MixUp.
    """
    if np.isnan(cut).any():
        mixed = share * first + (1 - share) * second.astype(np.float64)
        return np.rint(mixed).astype(np.uint8), share
    return cut_mix(first, second, share, cut)


def cut_mix(
    first: Pixels, second: Pixels, share: float, cut: npt.NDArray[np.float64]
) -> tuple[Pixels, float]:
    """Replace a rectangle of an image by that of another one; arguments as `mix`.

    The share of the first is larger than wanted where the border cuts off the rectangle.
    """
    size = np.array(first.shape[:2])
    half = size * (1 - share) ** 0.5 / 2
    top, left = np.rint((cut * size - half).clip(0, size)).astype(int)
    bottom, right = np.rint((cut * size + half).clip(0, size)).astype(int)
    mixed = first.copy()
    mixed[top:bottom, left:right] = second[top:bottom, left:right]
    return mixed, float(1 - (bottom - top) * (right - left) / size.prod())
