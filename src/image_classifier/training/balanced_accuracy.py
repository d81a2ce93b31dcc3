"""Balanced accuracy as a metric of Keras, which has none."""

from typing import Any

import keras
from keras import ops


def class_of(outputs: Any) -> Any:
    """Return the class of each image, int32 of shape (images,), for labels or probabilities.

    Of a mixture of two images, it is the class of the larger part.
    """
    if outputs.shape[-1] == 1:
        return ops.cast(ops.cast(ops.reshape(outputs, (-1,)), "float32") >= 0.5, "int32")
    return ops.cast(ops.argmax(outputs, axis=-1), "int32")


class BalancedAccuracy(keras.metrics.Metric):
    """The mean over the classes of the share of images that are recognised, 0 to 1.

    Unlike accuracy, it cannot be raised by answering the largest class. A class without images does
    not count.
    """

    def __init__(self, classes: int, name: str = "balanced_accuracy", **options: Any) -> None:
        """Count for a number of classes; with two, the model has one output."""
        super().__init__(name=name, **options)
        self.classes = classes
        self.right = self.add_weight(shape=(classes,), initializer="zeros", name="right")
        self.images = self.add_weight(shape=(classes,), initializer="zeros", name="images")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch of labels and probabilities, both of shape (images, outputs)."""
        labels, predicted = class_of(y_true), class_of(y_pred)
        of_class = ops.one_hot(labels, self.classes)
        right = ops.cast(ops.equal(labels, predicted), of_class.dtype)
        self.right.assign_add(ops.sum(of_class * right[:, None], axis=0))
        self.images.assign_add(ops.sum(of_class, axis=0))

    def result(self) -> Any:
        """Return the balanced accuracy of all batches since the last reset."""
        known = ops.cast(self.images > 0, self.images.dtype)
        recalls = self.right / ops.maximum(self.images, 1)
        return ops.sum(recalls * known) / ops.maximum(ops.sum(known), 1)
