"""The architectures. Rescaling is the first layer of each, so that no caller can forget it."""

from typing import Literal

import keras
from keras import layers

from image_classifier.config.schema import ArticleModel, CompactModel, Model, PretrainedModel
from image_classifier.training import backbones


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
    match model:
        case ArticleModel():
            x = article(layers.Rescaling(1 / 255)(inputs), model)
        case CompactModel():
            x = compact(layers.Rescaling(1 / 255)(inputs), model)
        case PretrainedModel():
            x = layers.Dropout(model.dropout)(backbones.features_of(inputs, model))
    built = keras.Model(inputs, _probability(x, classes), name=model.name)
    if isinstance(model, PretrainedModel) and model.is_trained:
        backbones.freeze_normalisation(built)
    return built


def head(model: Model, features: int, classes: int) -> keras.Model:
    """Return the last layer of a pretrained model by itself, with random weights.

    Args:
        model: Its settings.
        features: The number of features of the backbone.
        classes: See `build`.
    """
    inputs = keras.Input((features,), name="features")
    return keras.Model(inputs, _probability(layers.Dropout(model.dropout)(inputs), classes))


def train_top(model: keras.Model, blocks: int | None) -> None:
    """Choose the layers of a pretrained model that are trained.

    Args:
        model: From `build`.
        blocks: How many blocks are trained, from the output down; None: all. A block is all layers
            whose feature maps have the same size. Batch normalisation is not trained in any case.
    """
    sizes = [_size(layer) for layer in model.layers]
    kept = sorted({size for size in sizes if size})[: blocks or len(sizes)]
    first = next((index for index, size in enumerate(sizes) if size and size <= kept[-1]), 0)
    for index, layer in enumerate(model.layers):
        if not isinstance(layer, layers.BatchNormalization):
            layer.trainable = blocks is None or index >= first


def _size(layer: keras.Layer) -> int:
    """Return the number of places in a layer's feature maps; 0 for a layer without such."""
    shape = layer.output.shape
    return int(shape[1] * shape[2]) if len(shape) == 4 else 0


def _probability(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    """Add the output layer; see `build`."""
    # float32 even when the rest computes in float16, which cannot hold probabilities near 0 and 1
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    output = layers.Dense(units, activation=activation, name="probability", dtype="float32")(x)
    return output


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
