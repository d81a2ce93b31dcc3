"""Turns a classifier into one graph from pixels to probabilities, and writes it as a file."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
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
    shape = metadata.height, metadata.width, metadata.channels
    images = keras.Input(shape, dtype="uint8", name="image")
    x = classifier.model(images, training=False)
    if metadata.flip:
        x = (x + classifier.model(images[:, :, ::-1], training=False)) / 2
    if x.shape[1] == 1:
        x = ops.concatenate([1 - x, x], axis=1)
    if metadata.temperature != 1:
        # softmax(log p / t), as powers: LiteRT would compute a logarithm with 8 bits, too coarse
        powers = ops.power(x / ops.max(x, axis=1, keepdims=True), 1 / metadata.temperature)
        x = powers / ops.sum(powers, axis=1, keepdims=True)
    return keras.Model(images, x)


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras repairs tf2onnx for NumPy 2
            model.export(path, format=KERAS_FORMATS[kind], verbose=False, **options)
    except OSError:
        raise
    except Exception as error:  # each converter has types of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"The model cannot be written as {kind} ({reason}).") from error
    return path
