"""The only input pipeline: batches of prepared images, shuffled and augmented from seeds.

Only (seed, epoch, place in the unshuffled epoch, operation) decides the pixels, and only (seed,
epoch) the order. So neither the number of threads nor a restart changes what the model sees, and a
new operation changes nothing for the others.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.config.schema import Augmentation, Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Pixels
from image_classifier.training.augmentation import OPERATIONS, Draws, augment
from image_classifier.training.class_balance import balanced_rows, class_weights
from image_classifier.training.devices import threads
from image_classifier.training.mixing import mix

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Epoch:
    """The random numbers of one epoch.

    Attributes:
        order: int64 array of shape (images,): the order of the places.
        rows: int64 array of shape (images,): which training image each place shows.
        draws: Of each operation of `augmentation.OPERATIONS`, a float64 array of shape (images,
            numbers), uniform in [0, 1).
        partners: int64 array of shape (images,): the place that a place is mixed with.
        shares: float64 array of shape (images,): the share of the first of the two.
        cuts: float64 array of shape (images, 2): where CutMix cuts, uniform in [0, 1); NaN where
            MixUp mixes.
    """

    order: Rows
    rows: Rows
    draws: dict[str, Draws]
    partners: Rows
    shares: Draws
    cuts: Draws


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of batches in an epoch; the last may be smaller."""
    return -(-rows // batch_size)


def training_batches(dataset: PreparedDataset, config: Config, epochs: range) -> tf.data.Dataset:
    """Return the shuffled and augmented training batches of several epochs.

    Args:
        dataset: The prepared images.
        config: All settings; `augmentation` and `training` are used.
        epochs: Which epochs; `range(5, 30)` gives the batches that a run from 0 to 30 gets there.

    Returns:
        Pairs of uint8 images (batch, height, width, channels) and float32 labels (batch, outputs),
        see `targets`; with `training.class_weights` also float32 weights (batch,).
    """
    augmentation, rows = config.augmentation, dataset.indices("train")
    labels = targets(dataset, rows)

    def load(epoch: Epoch, places: Rows) -> tuple[Pixels, Floats]:
        stored = dataset.images  # a new mapping each time: an old one would fill the memory

        def augmented(place: int) -> Pixels:
            draws = {name: values[place] for name, values in epoch.draws.items()}
            return augment(stored[rows[epoch.rows[place]]], augmentation, draws)

        images = np.empty((len(places), *stored.shape[1:]), np.uint8)
        outputs = labels[epoch.rows[places]]
        for index, place in enumerate(places):
            images[index] = augmented(place)
            if augmentation.mixup or augmentation.cutmix:
                partner = epoch.partners[place]
                images[index], share = mix(
                    images[index], augmented(partner), epoch.shares[place], epoch.cuts[place]
                )
                outputs[index] += (1 - share) * (labels[epoch.rows[partner]] - outputs[index])
        return images, outputs

    return _training_pipeline(dataset, config, dataset.images, load, epochs)


def plain_batches(dataset: PreparedDataset, rows: Rows, batch_size: int) -> tf.data.Dataset:
    """Return batches of the given rows in their order, unchanged: images and labels."""
    labels = targets(dataset, rows)

    def load(step: int) -> tuple[Pixels, Floats]:
        part = slice(int(step) * batch_size, (int(step) + 1) * batch_size)
        return dataset.images[rows[part]], labels[part]

    return _pipeline(dataset.images, labels, load, range(steps_per_epoch(len(rows), batch_size)))


def feature_batches(
    dataset: PreparedDataset, features: Floats, config: Config, epochs: range
) -> tf.data.Dataset:
    """Return batches like `training_batches`, of a backbone's features: without augmentation.

    Args:
        dataset: Labels and splits.
        features: float32 array of shape (rows, features), which may lie on disk.
        config: All settings; `training` is used.
        epochs: See `training_batches`.
    """
    rows = dataset.indices("train")
    labels = targets(dataset, rows)

    def load(epoch: Epoch, places: Rows) -> tuple[Floats, Floats]:
        chosen = epoch.rows[places]
        return np.asarray(features[rows[chosen]]), labels[chosen]

    return _training_pipeline(dataset, config, features, load, epochs)


def plain_feature_batches(
    dataset: PreparedDataset, features: Floats, rows: Rows, batch_size: int
) -> tf.data.Dataset:
    """Return batches like `feature_batches`, of the given rows in their order."""
    labels = targets(dataset, rows)

    def load(step: int) -> tuple[Floats, Floats]:
        part = slice(int(step) * batch_size, (int(step) + 1) * batch_size)
        return np.asarray(features[rows[part]]), labels[part]

    return _pipeline(features, labels, load, range(steps_per_epoch(len(rows), batch_size)))


def targets(dataset: PreparedDataset, rows: Rows) -> Floats:
    """Return the outputs that a perfect model has for some images.

    Returns:
        float32 array of shape (rows, outputs): with two classes one output, 1 for the second
        class; with more, 1 for the class of the image, and 0 for the others.
    """
    labels, classes = dataset.labels[rows], len(dataset.classes)
    if classes == 2:
        return labels[:, None].astype(np.float32)
    return np.eye(classes, dtype=np.float32)[labels]


def smoothed(labels: Floats, share: float) -> Floats:
    """Return labels of which a share is spread evenly over the classes.

    Only the training labels are smoothed, so that the loss of the validation images stays
    comparable.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
    section 7.
    """
    spread = 0.5 if labels.shape[1] == 1 else 1 / labels.shape[1]
    return labels * np.float32(1 - share) + np.float32(share * spread)


def draw_epoch(
    seed: int,
    epoch: int,
    images: int,
    balanced: tuple[int, ...] | None = None,
    augmentation: Augmentation | None = None,
) -> Epoch:
    """Return the random numbers of an epoch, counted from 0.

    Args:
        seed: Of the training.
        epoch: Counted from 0.
        images: The number of training images.
        balanced: Their classes, to show each class equally often; None shows each image once.
        augmentation: Its `mixup` and `cutmix` decide how strongly images are mixed.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(images)
    draws = {"zoom_and_flip": generator.random((images, OPERATIONS["zoom_and_flip"]))}

    def stream(name: str) -> np.random.Generator:
        return np.random.default_rng((seed, epoch, zlib.crc32(name.encode())))

    for name, numbers in OPERATIONS.items():
        if name not in draws:
            draws[name] = stream(name).random((images, numbers))
    rows = np.arange(images)
    if balanced:
        rows = balanced_rows(np.array(balanced), stream("sampling"))
    shares, cuts = np.ones(images), stream("cuts").random((images, 2))
    if augmentation and augmentation.cutmix:
        shares = stream("cutmix").beta(augmentation.cutmix, augmentation.cutmix, images)
    if augmentation and augmentation.mixup:
        # with both, half of the images are mixed in either way
        chosen = stream("kinds").random(images) < (0.5 if augmentation.cutmix else 1)
        mixed_up = stream("mixup").beta(augmentation.mixup, augmentation.mixup, images)
        shares, cuts[chosen] = np.where(chosen, mixed_up, shares), np.nan
    partners = stream("partners").integers(0, images, images)
    return Epoch(order, rows, draws, partners, shares, cuts)


_kept_epoch = lru_cache(maxsize=4)(draw_epoch)  # every batch of an epoch needs it


def _training_pipeline(
    dataset: PreparedDataset,
    config: Config,
    examples: npt.NDArray[np.uint8 | np.float32],
    load: Callable[[Epoch, Rows], tuple[npt.NDArray[np.uint8 | np.float32], Floats]],
    epochs: range,
) -> tf.data.Dataset:
    training, rows = config.training, dataset.indices("train")
    size = training.images_per_step
    steps = steps_per_epoch(len(rows), size)
    outputs = targets(dataset, rows[:1])
    balanced = tuple(dataset.labels[rows].tolist()) if training.sampling == "balanced" else None
    weights = class_weights(training, dataset)

    def load_step(step: int) -> tuple[npt.NDArray[np.uint8 | np.float32], ...]:
        number, position = divmod(int(step), steps)
        epoch = _kept_epoch(training.seed, number, len(rows), balanced, config.augmentation)
        places = epoch.order[position * size : (position + 1) * size]
        inputs, labels = load(epoch, places)
        of_class = labels if labels.shape[1] > 1 else np.hstack([1 - labels, labels])
        weighted = () if weights is None else (of_class @ weights,)
        if training.label_smoothing:
            labels = smoothed(labels, training.label_smoothing)
        return inputs, labels, *weighted

    return _pipeline(
        examples,
        outputs,
        load_step,
        range(epochs.start * steps, epochs.stop * steps),
        weighted=weights is not None,
    )


def _pipeline(
    examples: npt.NDArray[np.uint8 | np.float32],
    labels: Floats,
    load: object,
    steps: range,
    *,
    weighted: bool = False,
) -> tf.data.Dataset:
    shapes = [(None, *examples.shape[1:]), (None, *labels.shape[1:])] + [(None,)] * weighted
    dtypes = [tf.as_dtype(examples.dtype)] + [tf.float32] * (len(shapes) - 1)

    def load_step(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # stateful=False: under op determinism stateful ones run one at a time
        batch = tf.numpy_function(load, [step], dtypes, stateful=False)
        for tensor, shape in zip(batch, shapes, strict=True):
            tensor.set_shape(shape)
        return tuple(batch)

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
