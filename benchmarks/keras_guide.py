"""Keras's guide "Transfer learning & fine-tuning", written out plainly, on the prepared images.

Source: https://keras.io/guides/transfer_learning/. Its numbers: batches of 64, dropout 0.2, random
flips and rotations, 2 epochs of the last layer with Adam, then 1 epoch of all layers with Adam at a
rate of 0.00001. Batch normalisation stays in inference mode.
"""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers

from image_classifier.config.schema import Config, PretrainedModel
from image_classifier.data.dataset import PreparedDataset

BATCH = 64


def train(config: Config, dataset: PreparedDataset) -> npt.NDArray[np.float32]:
    """Train as the guide does; return the probabilities of the test images.

    Args:
        config: The settings; `model` must be a backbone in a file.
        dataset: The prepared images.

    Returns:
        float32 array of shape (images, classes).
    """
    assert isinstance(config.model, PretrainedModel)
    keras.utils.set_random_seed(config.training.seed)
    classes = len(dataset.classes)
    backbone = keras.models.load_model(config.model.backbone, compile=False)
    backbone.trainable = False
    inputs = keras.Input(config.image.shape)
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomRotation(0.1)(x)
    x = backbone(x, training=False)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(inputs, layers.Dense(classes)(x))

    def batches(split: str) -> tf.data.Dataset:
        rows = dataset.indices(split)  # type: ignore[arg-type]
        pairs = tf.data.Dataset.from_tensor_slices((dataset.images[rows], dataset.labels[rows]))
        if split == "train":
            pairs = pairs.shuffle(len(rows), seed=config.training.seed)
        return pairs.batch(BATCH).prefetch(tf.data.AUTOTUNE)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for trained, rate, epochs in ((False, 1e-3, 2), (True, 1e-5, 1)):
        backbone.trainable = trained
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        model.fit(batches("train"), validation_data=batches("validation"), epochs=epochs, verbose=2)
    logits = model.predict(batches("test"), verbose=0)
    return np.asarray(keras.ops.softmax(logits), np.float32)
