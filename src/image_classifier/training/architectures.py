"""The architectures. Rescaling is the first layer of each, so that no caller can forget it."""

from typing import Literal

import keras
from keras import layers

from image_classifier.config.schema import ArticleModel, CompactModel, Model, Optimizer
from image_classifier.training.balanced_accuracy import BalancedAccuracy


def build(
    model: Model,
    image_shape: tuple[int, int, int],
    classes: int,
    precision: Literal["float32", "mixed_float16"] = "float32",
) -> keras.Model:
    """Return a new model with random weights.

    Args:
        model: The architecture and its hyperparameters.
        image_shape: Height, width and channels of the images: uint8, values 0 to 255.
        classes: With two, the output is one sigmoid, the probability of the second class;
            with more, a softmax over all.
        precision: The type in which the layers compute. The weights are float32 in any case.
    """
    keras.config.set_dtype_policy(precision)
    inputs = keras.Input(image_shape, dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    match model:
        case ArticleModel():
            x = article(x, model)
        case CompactModel():
            x = compact(x, model)
    # float32 even when the rest computes in float16, which cannot hold probabilities near 0 and 1
    if classes == 2:
        outputs = layers.Dense(1, activation="sigmoid", name="probability", dtype="float32")(x)
    else:
        outputs = layers.Dense(classes, activation="softmax", name="probability", dtype="float32")(
            x
        )
    return keras.Model(inputs, outputs, name=model.name)


def article(x: keras.KerasTensor, model: ArticleModel) -> keras.KerasTensor:
    """Add the article's layers."""
    for filters in model.filters:
        x = layers.Conv2D(filters, model.kernel_size, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(model.dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(model.dense_units, activation="relu")(x)
    return layers.Dropout(model.dropout)(x)


def compact(x: keras.KerasTensor, model: CompactModel) -> keras.KerasTensor:
    """Add the compact model's layers."""
    shapes = [(model.stem_kernel_size, model.stem_stride)] + [(3, 2)] * (len(model.filters) - 1)
    for filters, (size, stride) in zip(model.filters, shapes, strict=True):
        # no bias: batch normalisation would subtract it again
        x = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=model.batch_norm_momentum)(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(model.dropout)(x)


def compile_for_training(
    model: keras.Model, optimizer: Optimizer, steps: int, xla: bool = False
) -> None:
    """Compile a model with its optimizer, the cross-entropy for its output, and its metrics.

    Args:
        model: From `build`.
        optimizer: With a cosine schedule the learning rate falls to 0 over all steps.
        steps: Number of batches in the whole training.
        xla: Whether XLA compiles the steps; see `devices.compiles_with_xla`.
    """
    rate: float | keras.optimizers.schedules.LearningRateSchedule = optimizer.learning_rate
    if optimizer.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(optimizer.learning_rate, steps)
    # without names, Keras calls the metrics accuracy_1 in the second training of a process
    if model.output_shape[-1] == 1:
        loss: keras.losses.Loss = keras.losses.BinaryCrossentropy()
        accuracy: keras.metrics.Metric = keras.metrics.BinaryAccuracy(name="accuracy")
    else:
        # categorical cross-entropy for integer labels instead of one-hot rows
        loss = keras.losses.SparseCategoricalCrossentropy()
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    metrics = [accuracy, BalancedAccuracy(max(2, model.output_shape[-1]))]
    model.compile(keras.optimizers.Adam(rate), loss=loss, metrics=metrics, jit_compile=xla)
