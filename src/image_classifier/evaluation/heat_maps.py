"""Heat maps: which parts of an image are evidence for a class (Grad-CAM)."""

import cv2
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.classifier import Classifier
from image_classifier.data.images import Pixels

HeatMaps = npt.NDArray[np.float32]


def heat_maps(classifier: Classifier, pixels: Pixels, classes: npt.NDArray[np.int64]) -> HeatMaps:
    """Return how much each place of each image is evidence for a class.

    Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization, 2017. The feature maps of the last layer with height and width, each weighted by
    the mean gradient of the class's logit. Negative values, evidence against the class, become 0.

    Args:
        classifier: The model.
        pixels: uint8 array of shape (images, height, width, channels).
        classes: int64 array of shape (images,): the class to explain for each.

    Returns:
        float32 array of shape (images, height, width), 0 to 1. The highest value of each image is
        1; an image without evidence for the class is all 0.
    """
    model = classifier.model
    last_maps = [layer for layer in model.layers if len(layer.output.shape) == 4][-1]
    output = model.layers[-1]
    part = keras.Model(model.inputs, [last_maps.output, output.input])
    kernel, bias = (tf.constant(weights) for weights in output.get_weights())
    with tf.GradientTape() as tape:
        features, last = part(tf.constant(pixels), training=False)
        logits = tf.matmul(last, kernel) + bias
        if logits.shape[1] == 1:  # one sigmoid: its logit is evidence for the second class
            logits = tf.concat([-logits, logits], axis=1)
        chosen = tf.gather(logits, classes, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(chosen, features), axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=3)).numpy()
    maps /= np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
    height, width = pixels.shape[1:3]
    return np.stack([cv2.resize(map_, (width, height)) for map_ in maps])


def overlay(image: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """Return an image with its heat map on top.

    Args:
        image: uint8 array of shape (height, width, 1 or 3).
        heat: float32 array of shape (height, width), 0 to 1.

    Returns:
        uint8 array of shape (height, width, 3), RGB.
    """
    coloured = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
    strength = 0.5 * heat[:, :, None]
    return np.asarray(image * (1 - strength) + coloured * strength, np.uint8)


def explain(classifier: Classifier, pixels: Pixels, chosen: npt.NDArray[np.int64]) -> Pixels:
    """Return one image with its heat map on top.

    Args:
        classifier: The model.
        pixels: uint8 array of shape (height, width, channels).
        chosen: int64 array of shape (1,): the class to explain.

    Returns:
        uint8 array of shape (height, width, 3), RGB.
    """
    return overlay(pixels, heat_maps(classifier, pixels[None], chosen)[0])
