"""The only input pipeline: batches of prepared images, shuffled and augmented from seeds.

Only (seed, epoch, row) decides the pixels and the order, so neither the number of threads nor a
restart changes what the model sees.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.config.schema import Augmentation
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Pixels
from image_classifier.training.augmentation import DRAWS, OF_ZOOM_AND_FLIP, augment
from image_classifier.training.devices import threads

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
    """Return the shuffled and augmented training batches of several epochs.

    Args:
        dataset: The prepared images.
        augmentation: Random changes, different for every image and epoch.
        batch_size: Images in a batch.
        seed: Decides the order and the augmentation.
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

    return _pipeline(dataset.images, load, range(epochs.start * steps, epochs.stop * steps))


def plain_batches(dataset: PreparedDataset, rows: Rows, batch_size: int) -> tf.data.Dataset:
    """Return batches like `training_batches`, of the given rows in their order, unchanged."""

    def load(step: int) -> tuple[Pixels, npt.NDArray[np.int32]]:
        chosen = rows[int(step) * batch_size : (int(step) + 1) * batch_size]
        return dataset.images[chosen], dataset.labels[chosen, None].astype(np.int32)

    return _pipeline(dataset.images, load, range(steps_per_epoch(len(rows), batch_size)))


def feature_batches(
    dataset: PreparedDataset,
    features: npt.NDArray[np.float32],
    batch_size: int,
    seed: int,
    epochs: range,
) -> tf.data.Dataset:
    """Return batches like `training_batches`, of a backbone's features: without augmentation.

    Args:
        dataset: Labels and splits.
        features: float32 array of shape (rows, features).
        batch_size: Images in a batch.
        seed: Decides the order.
        epochs: See `training_batches`.
    """
    rows = dataset.indices("train")
    own = np.asarray(features[rows])
    steps = steps_per_epoch(len(rows), batch_size)

    def load(step: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        epoch, position = divmod(int(step), steps)
        order, _ = _epoch_draws(seed, epoch, len(rows))
        chosen = order[position * batch_size : (position + 1) * batch_size]
        return own[chosen], dataset.labels[rows[chosen], None].astype(np.int32)

    return _pipeline(own, load, range(epochs.start * steps, epochs.stop * steps))


def plain_feature_batches(
    dataset: PreparedDataset, features: npt.NDArray[np.float32], rows: Rows, batch_size: int
) -> tf.data.Dataset:
    """Return batches like `feature_batches`, of the given rows in their order."""
    own = np.asarray(features[rows])

    def load(step: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        part = slice(int(step) * batch_size, (int(step) + 1) * batch_size)
        return own[part], dataset.labels[rows[part], None].astype(np.int32)

    return _pipeline(own, load, range(steps_per_epoch(len(rows), batch_size)))


@lru_cache(maxsize=4)
def _epoch_draws(seed: int, epoch: int, images: int) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Return the order of an epoch, and the random numbers of each image."""
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(images)
    # the numbers of every other change are drawn for all images at once, one change after another:
    # so they stay the same when a new change takes its numbers at the end
    first = generator.random((images, OF_ZOOM_AND_FLIP))
    others = generator.random((DRAWS - OF_ZOOM_AND_FLIP, images)).T
    return order, np.hstack([first, others])


def _pipeline(
    examples: npt.NDArray[np.uint8 | np.float32], load: object, steps: range
) -> tf.data.Dataset:
    shape, dtype = examples.shape[1:], tf.as_dtype(examples.dtype)

    def load_step(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # stateful=False: under op determinism stateful ones run one at a time
        images, labels = tf.numpy_function(load, [step], (dtype, tf.int32), stateful=False)
        images.set_shape((None, *shape))
        labels.set_shape((None, 1))
        return images, labels

    options = tf.data.Options()
    # With autotuning, the end of an epoch waits for its thread, which wakes up after
    # 10 * (2^n - 1) milliseconds: that can double the time of a short training.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads()
    return (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(load_step, num_parallel_calls=threads(), deterministic=True)
        .prefetch(2 * threads())
        .with_options(options)
    )
