"""The only input pipeline: batches of prepared images, shuffled and augmented from seeds.

(seed, epoch, row) alone decides every pixel and the order, so neither the number of threads nor
a restart in the middle changes what the model sees.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.config import Augmentation
from image_classifier.dataset import PreparedDataset
from image_classifier.images import Pixels

cv2.setNumThreads(1)  # tf.data runs several batches side by side; more threads would only queue

Rows = npt.NDArray[np.int64]


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
        order = _epoch_order(seed, epoch, len(rows))
        chosen = rows[order[position * batch_size : (position + 1) * batch_size]]
        images = np.stack(
            [augment(dataset.images[row], augmentation, (seed, epoch, int(row))) for row in chosen]
        )
        return images, dataset.labels[chosen, None].astype(np.int32)

    return _pipeline(dataset, load, range(epochs.start * steps, epochs.stop * steps))


def plain_batches(dataset: PreparedDataset, rows: Rows, batch_size: int) -> tf.data.Dataset:
    """Return the images of some rows in their order, unchanged, as `training_batches` does."""

    def load(step: int) -> tuple[Pixels, npt.NDArray[np.int32]]:
        chosen = rows[int(step) * batch_size : (int(step) + 1) * batch_size]
        return dataset.images[chosen], dataset.labels[chosen, None].astype(np.int32)

    return _pipeline(dataset, load, range(steps_per_epoch(len(rows), batch_size)))


def augment(image: Pixels, augmentation: Augmentation, seeds: tuple[int, int, int]) -> Pixels:
    """Return an image randomly zoomed about its centre and flipped.

    Height and width are scaled separately, as `ImageDataGenerator(zoom_range=…)` does, and what
    comes into view beyond the border repeats the border's pixels.

    Args:
        image: uint8 array of shape (height, width, channels).
        augmentation: What may happen.
        seeds: Seed, epoch and row: the same ones give the same pixels.

    Returns:
        uint8 array of the same shape.
    """
    draw = np.random.default_rng(seeds).random(3)
    zoom_y, zoom_x = 1 + augmentation.zoom * (2 * draw[:2] - 1)
    if augmentation.horizontal_flip and draw[2] < 0.5:
        zoom_x = -zoom_x
    height, width, _ = image.shape
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    # where each pixel of the result comes from: centre + zoom * (position - centre)
    source = np.array(
        [[zoom_x, 0, centre_x * (1 - zoom_x)], [0, zoom_y, centre_y * (1 - zoom_y)]], np.float32
    )
    warped = cv2.warpAffine(
        image,
        source,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped, np.uint8).reshape(image.shape)  # OpenCV drops a single channel


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, rows: int) -> Rows:
    return np.random.default_rng((seed, epoch)).permutation(rows)


def _pipeline(dataset: PreparedDataset, load: object, steps: range) -> tf.data.Dataset:
    def load_step(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # stateful=False: under op determinism stateful ones run one at a time
        images, labels = tf.numpy_function(load, [step], (tf.uint8, tf.int32), stateful=False)
        images.set_shape((None, *dataset.images.shape[1:]))
        labels.set_shape((None, 1))
        return images, labels

    return (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(load_step, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )
