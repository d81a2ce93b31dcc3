"""Turns a classifier into one graph from pixels to probabilities, and writes it as a file."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from image_classifier.classifier import Classifier
from image_classifier.data.images import Pixels
from image_classifier.errors import InputError

Format = Literal["onnx", "litert", "saved_model"]
FILES: dict[Format, str] = {
    "onnx": "model.onnx", "litert": "model.tflite", "saved_model": "saved_model",
}  # fmt: skip
KERAS_FORMATS = {"onnx": "onnx", "litert": "litert", "saved_model": "tf_saved_model"}


def answering_model(classifier: Classifier) -> keras.Model:
    """Return a model whose output is what `Classifier.probabilities` returns.

    Input: uint8 of shape (images, height, width, channels). Output: float32 of shape (images,
    classes). The mirror image and the temperature are part of it.
    """
    metadata = classifier.metadata
    model = in_float32(classifier.model) if computes_in_half(classifier.model) else classifier.model
    _use_constants(model)
    shape = metadata.height, metadata.width, metadata.channels
    images = keras.Input(shape, dtype="uint8", name="image")
    x = model(images, training=False)
    if metadata.flip:
        x = (x + model(images[:, :, ::-1], training=False)) / 2
    if x.shape[1] == 1:
        x = ops.concatenate([1 - x, x], axis=1)
    if metadata.temperature != 1:
        # softmax(log p / t), as powers: LiteRT would compute a logarithm with 8 bits, too coarse
        powers = ops.power(x / ops.max(x, axis=1, keepdims=True), 1 / metadata.temperature)
        x = powers / ops.sum(powers, axis=1, keepdims=True)
    return keras.Model(images, x)


def computes_in_half(model: keras.Model) -> bool:
    """Return whether a model was trained to compute with numbers of 16 bits."""
    return any(layer.compute_dtype == "float16" for layer in model.layers)


def in_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a model that computes with numbers of 32 bits: LiteRT has no others."""

    def copied(layer: keras.Layer) -> keras.Layer:
        settings = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            settings["dtype"] = "float32"
        return type(layer).from_config(settings)

    copy = keras.models.clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    return copy


def _use_constants(model: keras.Model) -> None:
    """Let normalisation layers keep their numbers as arrays.

    They have tensors, which tf2onnx takes for inputs of the model.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _use_constants(layer)
        elif isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def convert(
    model: keras.Model, kind: Format, folder: Path, representatives: Pixels | None = None
) -> Path:
    """Write a model as a file of a folder, SavedModel as a folder of it; return its path.

    Args:
        model: See `answering_model`.
        kind: The format.
        folder: Where the file is written.
        representatives: Training images, uint8 of shape (images, height, width, channels). With
            them LiteRT computes all layers with integers of 8 bits, in the ranges that these
            images need.

    Raises:
        InputError: the format cannot express the model.
    """
    path = folder / FILES[kind]
    images = tf.TensorSpec(model.inputs[0].shape, tf.uint8, name="image")
    options: dict[str, Any] = {"input_signature": [images]}
    if kind == "litert":
        # without the operations of TensorFlow that Keras would allow: LiteRT alone lacks them
        operations = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if representatives is not None:

            def samples() -> Iterator[list[Pixels]]:
                yield from ([image[None]] for image in representatives)

            operations = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, *operations]
            options["optimizations"] = [tf.lite.Optimize.DEFAULT]
            options["representative_dataset"] = samples
        options["target_spec"] = {"supported_ops": operations}
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # warns of optimizations that it skips
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras repairs tf2onnx for NumPy 2
            model.export(path, format=KERAS_FORMATS[kind], verbose=False, **options)
    except OSError:
        raise
    except Exception as error:  # each converter has types of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"The model cannot be written as {kind} ({reason[:300]}).") from error
    return path
