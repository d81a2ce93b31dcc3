"""Augmentation: the random changes to one training image, each decided by numbers of its own."""

import cv2
import numpy as np
import numpy.typing as npt

from image_classifier.data.images import Pixels
from image_classifier.schema import Augmentation

cv2.setNumThreads(1)  # tf.data runs several batches side by side; more threads would only queue

# Which of an image's random numbers decide which change; a new change takes new ones, at the end
OF_ZOOM_AND_FLIP = 3
ZOOM_AND_FLIP = slice(0, OF_ZOOM_AND_FLIP)
CROP = slice(3, 7)
EQUALIZE = 7
TONE = slice(8, 10)
GREY = 10
JPEG = 11
DRAWS = 12


def augment(image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]) -> Pixels:
    """Return an image with the random changes that its draws decide.

    Args:
        image: uint8 array of shape (height, width, channels).
        augmentation: What may happen.
        draws: float64 array of shape (DRAWS,), uniform in [0, 1).

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
        image = tone(image, augmentation, draws[TONE])
    if draws[GREY] < augmentation.grey and shape[2] == 3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if augmentation.jpeg_quality < 100:
        quality = round(augmentation.jpeg_quality + draws[JPEG] * (100 - augmentation.jpeg_quality))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)
    return np.asarray(image, np.uint8).reshape(shape)  # OpenCV drops a single channel


def zoom_and_flip(
    image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> Pixels:
    """Return an image zoomed about its centre and perhaps flipped.

    Height and width are scaled separately, as `ImageDataGenerator(zoom_range=…)` does, and what
    comes into view beyond the border repeats the border's pixels. Sizes are rounded to whole
    pixels: `cv2.resize` is four times as fast as `cv2.warpAffine`, which can do without.
    """
    height, width = image.shape[:2]
    zoom_y, zoom_x = 1 + augmentation.zoom * (2 * draws[:2] - 1)
    # below 1 a part is enlarged to the whole, above 1 the whole is made smaller and framed
    part = _centred(image, round(height * min(zoom_y, 1)), round(width * min(zoom_x, 1)))
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
    """Return a random part of an image, of random aspect ratio, enlarged to the whole."""
    height, width = image.shape[:2]
    area = 1 - augmentation.crop * draws[0]
    ratio = (1 - augmentation.aspect) ** (2 * draws[1] - 1)
    rows = min(height, max(1, round(height * (area / ratio) ** 0.5)))
    columns = min(width, max(1, round(width * (area * ratio) ** 0.5)))
    top, left = round(draws[2] * (height - rows)), round(draws[3] * (width - columns))
    part = image[top : top + rows, left : left + columns]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def equalize(image: Pixels) -> Pixels:
    """Return an image whose brightness has an even histogram; its colours stay."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.equalizeHist(image)  # type: ignore[no-any-return]
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    parts[:, :, 0] = cv2.equalizeHist(parts[:, :, 0])
    return cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB)  # type: ignore[no-any-return]


def tone(image: Pixels, augmentation: Augmentation, draws: npt.NDArray[np.float64]) -> Pixels:
    """Return an image of another gamma and contrast."""
    gamma = (1 - augmentation.gamma) ** (2 * draws[0] - 1)
    contrast = 1 + augmentation.contrast * (2 * draws[1] - 1)
    table = (np.arange(256) / 255) ** gamma * 255
    mean = table[image].mean()
    table = mean + contrast * (table - mean)
    return cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8))  # type: ignore[no-any-return]


def _centred(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
