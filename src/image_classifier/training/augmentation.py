"""Augmentation: random changes to a training image, each decided by random numbers of its own."""

import cv2
import numpy as np
import numpy.typing as npt

from image_classifier.config.schema import Augmentation
from image_classifier.data.images import Pixels

cv2.setNumThreads(1)  # tf.data prepares several batches in parallel already

# Which of the random numbers of an image decide which change. A new change takes new numbers, at
# the end, so that those of the other changes stay the same.
OF_ZOOM_AND_FLIP = 3
ZOOM_AND_FLIP = slice(0, OF_ZOOM_AND_FLIP)
CROP = slice(3, 7)
EQUALIZE = 7
COLOR_JITTER = slice(8, 10)
GREY = 10
JPEG = 11
DRAWS = 12


def augment(image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]) -> Pixels:
    """Return an image with random changes.

    Args:
        image: uint8 array of shape (height, width, channels).
        augmentation: Which changes, and how strong.
        draws: float64 array of shape (DRAWS,), uniform in [0, 1): decide the changes.

    Returns:
        uint8 array of the same shape.
    """
    shape = image.shape
    if augmentation.crop or augmentation.aspect:
        image = resized_crop(image, augmentation, draws[CROP])
    image = zoom_and_flip(image, augmentation, draws[ZOOM_AND_FLIP])
    if draws[EQUALIZE] < augmentation.equalize:
        image = equalize(image)
    if augmentation.contrast or augmentation.gamma:
        image = color_jitter(image, augmentation, draws[COLOR_JITTER])
    if draws[GREY] < augmentation.grey and shape[2] == 3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if augmentation.jpeg_quality < 100:
        quality = round(augmentation.jpeg_quality + draws[JPEG] * (100 - augmentation.jpeg_quality))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)
    return np.asarray(image, np.uint8).reshape(shape)  # OpenCV drops the axis of a single channel


def zoom_and_flip(
    image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> Pixels:
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


def resized_crop(
    image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> Pixels:
    """Return a random part of an image, with a random aspect ratio, enlarged to the whole."""
    height, width = image.shape[:2]
    area = 1 - augmentation.crop * draws[0]
    ratio = (1 - augmentation.aspect) ** (2 * draws[1] - 1)
    rows = min(height, max(1, round(height * (area / ratio) ** 0.5)))
    columns = min(width, max(1, round(width * (area * ratio) ** 0.5)))
    top, left = round(draws[2] * (height - rows)), round(draws[3] * (width - columns))
    part = image[top : top + rows, left : left + columns]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def equalize(image: Pixels) -> Pixels:
    """Return an image with an equalized brightness histogram and unchanged colours."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.equalizeHist(image)  # type: ignore[no-any-return]
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    parts[:, :, 0] = cv2.equalizeHist(parts[:, :, 0])
    return cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB)  # type: ignore[no-any-return]


def color_jitter(
    image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> Pixels:
    """Return an image with another gamma and contrast."""
    gamma = (1 - augmentation.gamma) ** (2 * draws[0] - 1)
    contrast = 1 + augmentation.contrast * (2 * draws[1] - 1)
    table = (np.arange(256) / 255) ** gamma * 255
    mean = table[image].mean()
    table = mean + contrast * (table - mean)
    return cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8))  # type: ignore[no-any-return]


def _centre_part(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
