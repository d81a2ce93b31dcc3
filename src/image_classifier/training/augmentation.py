"""Augmentation: random changes to a training image, each decided by random numbers of its own."""

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from image_classifier.config.schema import Augmentation
from image_classifier.data.images import Pixels
from image_classifier.training.trivial_augment import trivial_augment

cv2.setNumThreads(1)  # tf.data prepares several batches in parallel already

Draws = npt.NDArray[np.float64]

# how many random numbers each operation needs for an image
OPERATIONS = {
    "zoom_and_flip": 3,
    "crop": 4,
    "turn_and_move": 3,
    "trivial": 3,
    "equalize": 1,
    "contrast_and_gamma": 2,
    "saturation_and_hue": 2,
    "grey": 1,
    "jpeg": 1,
    "erasing": 6,
}
ERASED_AREA = (0.02, 0.33)  # Zhong et al., Random Erasing Data Augmentation, 2020, section 4
ERASED_RATIO = 0.3  # the smallest aspect ratio of the rectangle, from the same source


def augment(image: Pixels, augmentation: Augmentation, draws: Mapping[str, Draws]) -> Pixels:
    """Return an image with random changes.

    Args:
        image: uint8 array of shape (height, width, channels).
        augmentation: Which changes, and how strong.
        draws: For each of `OPERATIONS`, a float64 array of its numbers, uniform in [0, 1).

    Returns:
        uint8 array of the same shape.
    """
    shape = image.shape
    if augmentation.crop or augmentation.aspect:
        image = resized_crop(image, augmentation, draws["crop"])
    image = zoom_and_flip(image, augmentation, draws["zoom_and_flip"])
    if augmentation.rotation or augmentation.translation:
        image = turn_and_move(image, augmentation, draws["turn_and_move"])
    if draws["trivial"][0] < augmentation.trivial:
        image = trivial_augment(image.reshape(shape), draws["trivial"][1:])
    if draws["equalize"][0] < augmentation.equalize:
        image = equalize(image)
    if augmentation.contrast or augmentation.gamma:
        image = contrast_and_gamma(image, augmentation, draws["contrast_and_gamma"])
    if (augmentation.saturation or augmentation.hue) and shape[2] == 3:
        image = saturation_and_hue(image, augmentation, draws["saturation_and_hue"])
    if draws["grey"][0] < augmentation.grey and shape[2] == 3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if augmentation.jpeg_quality < 100:
        range_ = 100 - augmentation.jpeg_quality
        quality = round(augmentation.jpeg_quality + draws["jpeg"][0] * range_)
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)
    image = np.asarray(image, np.uint8).reshape(shape)  # OpenCV drops the axis of a single channel
    if draws["erasing"][0] < augmentation.erasing:
        image = erase(image, draws["erasing"][1:])
    return image


def zoom_and_flip(image: Pixels, augmentation: Augmentation, draws: Draws) -> Pixels:
    """Return an image zoomed about its centre and, for half of the draws, flipped.

    Height and width are scaled separately, as by `ImageDataGenerator(zoom_range=…)`. Beyond the
    border, the pixels of the border are repeated. Sizes are rounded to whole pixels, because
    `cv2.resize` is four times as fast as `cv2.warpAffine`.
    """
    height, width = image.shape[:2]
    zoom_y, zoom_x = 1 + augmentation.zoom * (2 * draws[:2] - 1)
    # below 1 a part is enlarged to the whole; above 1 the whole is made smaller and gets a frame
    part = _centre_part(image, round(height * min(zoom_y, 1)), round(width * min(zoom_x, 1)))
    inner_height, inner_width = round(height / max(zoom_y, 1)), round(width / max(zoom_x, 1))
    result = cv2.resize(part, (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    bottom, right = height - inner_height - top, width - inner_width - left
    result = cv2.copyMakeBorder(result, top, bottom, left, right, cv2.BORDER_REPLICATE)
    if augmentation.horizontal_flip and draws[2] < 0.5:
        result = cv2.flip(result, 1)
    return result  # type: ignore[no-any-return]


def resized_crop(image: Pixels, augmentation: Augmentation, draws: Draws) -> Pixels:
    """Return a random part of an image, with a random aspect ratio, enlarged to the whole."""
    height, width = image.shape[:2]
    area = 1 - augmentation.crop * draws[0]
    ratio = (1 - augmentation.aspect) ** (2 * draws[1] - 1)
    rows = min(height, max(1, round(height * (area / ratio) ** 0.5)))
    columns = min(width, max(1, round(width * (area * ratio) ** 0.5)))
    top, left = round(draws[2] * (height - rows)), round(draws[3] * (width - columns))
    part = image[top : top + rows, left : left + columns]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def turn_and_move(image: Pixels, augmentation: Augmentation, draws: Draws) -> Pixels:
    """Return an image turned about its centre and moved; the pixels of the border are repeated."""
    height, width = image.shape[:2]
    angle = augmentation.rotation * (2 * draws[0] - 1)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    matrix[:, 2] += augmentation.translation * (2 * draws[1:3] - 1) * (width, height)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)  # type: ignore[no-any-return]


def equalize(image: Pixels) -> Pixels:
    """Return an image with an equalized brightness histogram and unchanged colours."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.equalizeHist(image)  # type: ignore[no-any-return]
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    parts[:, :, 0] = cv2.equalizeHist(parts[:, :, 0])
    return cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB)  # type: ignore[no-any-return]


def contrast_and_gamma(image: Pixels, augmentation: Augmentation, draws: Draws) -> Pixels:
    """Return an image with another gamma and contrast."""
    gamma = (1 - augmentation.gamma) ** (2 * draws[0] - 1)
    contrast = 1 + augmentation.contrast * (2 * draws[1] - 1)
    table = (np.arange(256) / 255) ** gamma * 255
    mean = table[image].mean()
    table = mean + contrast * (table - mean)
    return cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8))  # type: ignore[no-any-return]


def saturation_and_hue(image: Pixels, augmentation: Augmentation, draws: Draws) -> Pixels:
    """Return a colour image with another saturation and hue."""
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    saturation = 1 + augmentation.saturation * (2 * draws[0] - 1)
    # OpenCV's hue has steps of two degrees
    turned = parts[:, :, 0].astype(int) + round(augmentation.hue * (2 * draws[1] - 1) / 2)
    parts[:, :, 0] = turned % 180
    parts[:, :, 1] = np.rint(parts[:, :, 1] * saturation).clip(0, 255)
    return cv2.cvtColor(parts, cv2.COLOR_HSV2RGB)  # type: ignore[no-any-return]


def erase(image: Pixels, draws: Draws) -> Pixels:
    """Return an image in which a random rectangle is replaced by noise."""
    height, width = image.shape[:2]
    smallest, largest = ERASED_AREA
    area = height * width * (smallest + (largest - smallest) * draws[0])
    ratio = ERASED_RATIO ** (2 * draws[1] - 1)
    rows = min(height, max(1, round((area * ratio) ** 0.5)))
    columns = min(width, max(1, round((area / ratio) ** 0.5)))
    top, left = round(draws[2] * (height - rows)), round(draws[3] * (width - columns))
    noise = np.random.default_rng(int(draws[4] * 2**53))
    erased = image.copy()
    erased[top : top + rows, left : left + columns] = noise.integers(
        0, 256, (rows, columns, image.shape[2]), np.uint8
    )
    return erased


def _centre_part(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
