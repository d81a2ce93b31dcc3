"""The only input pipeline: batches of prepared images, shuffled and augmented from seeds.

(seed, epoch, row) alone decides every pixel and the order, so neither the number of threads nor
a restart in the middle changes what the model sees.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Pixels
from image_classifier.schema import Augmentation
from image_classifier.training.devices import threads

cv2.setNumThreads(1)  # tf.data runs several batches side by side; more threads would only queue

Rows = npt.NDArray[np.int64]

DRAWS = 12  # random numbers that decide all changes of one image


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of batches in an epoch; the last may be smaller."""
    return -(-rows // batch_size)


def training_batches(
    dataset: PreparedDataset,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    epochs: range,
) -> tf.data.Dataset:
    """Return the shuffled and augmented training batches of several epochs, one after another.

    Args:
        dataset: The prepared images.
        augmentation: Random changes, drawn anew for every image and epoch.
        batch_size: Images in a batch.
        seed: Decides order and augmentation.
        epochs: Which epochs; `range(5, 30)` gives the batches that a run from 0 to 30 gets there.

    Returns:
        Pairs of uint8 images (batch, height, width, channels) and int32 labels (batch, 1).
    """
    rows = dataset.indices("train")
    steps = steps_per_epoch(len(rows), batch_size)

    def load(step: int) -> tuple[Pixels, npt.NDArray[np.int32]]:
        epoch, position = divmod(int(step), steps)
        order, draws = _epoch_draws(seed, epoch, len(rows))
        chosen = order[position * batch_size : (position + 1) * batch_size]
        stored = dataset.images
        images = np.empty((len(chosen), *stored.shape[1:]), np.uint8)
        for image, index in zip(images, chosen, strict=True):
            image[:] = augment(stored[rows[index]], augmentation, draws[index])
        return images, dataset.labels[rows[chosen], None].astype(np.int32)

    return _pipeline(dataset, load, range(epochs.start * steps, epochs.stop * steps))


def plain_batches(dataset: PreparedDataset, rows: Rows, batch_size: int) -> tf.data.Dataset:
    """Return the images of some rows in their order, unchanged, as `training_batches` does."""

    def load(step: int) -> tuple[Pixels, npt.NDArray[np.int32]]:
        chosen = rows[int(step) * batch_size : (int(step) + 1) * batch_size]
        return dataset.images[chosen], dataset.labels[chosen, None].astype(np.int32)

    return _pipeline(dataset, load, range(steps_per_epoch(len(rows), batch_size)))


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
        image = resized_crop(image, augmentation, draws[3:7])
    image = zoom_and_flip(image, augmentation, draws[:3])
    if draws[7] < augmentation.equalize:
        image = equalize(image)
    if augmentation.contrast or augmentation.gamma:
        image = tone(image, augmentation, draws[8:10])
    if draws[10] < augmentation.grey and shape[2] == 3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if augmentation.jpeg_quality < 100:
        quality = round(augmentation.jpeg_quality + draws[11] * (100 - augmentation.jpeg_quality))
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


@lru_cache(maxsize=4)
def _epoch_draws(seed: int, epoch: int, images: int) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Return the order of an epoch, and the random numbers of each image."""
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(images)
    # those for zoom and flip first: they stay as they are, however many kinds of change there are
    zoom_and_flip, others = generator.random((images, 3)), generator.random((images, DRAWS - 3))
    return order, np.hstack([zoom_and_flip, others])


def _pipeline(dataset: PreparedDataset, load: object, steps: range) -> tf.data.Dataset:
    shape = dataset.images.shape[1:]

    def load_step(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # stateful=False: under op determinism stateful ones run one at a time
        images, labels = tf.numpy_function(load, [step], (tf.uint8, tf.int32), stateful=False)
        images.set_shape((None, *shape))
        labels.set_shape((None, 1))
        return images, labels

    options = tf.data.Options()
    # With autotuning, the end of an epoch or of the training waits until its thread wakes up, at
    # 10 * (2^n - 1) milliseconds: up to as long again as the training took.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads()
    return (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(load_step, num_parallel_calls=threads(), deterministic=True)
        .prefetch(2 * threads())
        .with_options(options)
    )
