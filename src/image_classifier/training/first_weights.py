"""The first weights of a training that starts from a registered version: `training.start_from`."""

from itertools import zip_longest
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.training import architectures

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

Floats = npt.NDArray[np.float32]
OUTPUT = "probability"  # the output layer, always the last one


def first_weights(config: Config, dataset: PreparedDataset, start: "Classifier") -> list[Floats]:
    """Return the weights of a new model that knows what another one has learnt.

    The output layer gets the weights of the classes that both have; other classes keep their
    random weights.

    Args:
        config: All settings; the model is built with them.
        dataset: The prepared images.
        start: The other model.

    Returns:
        float32 arrays, for `keras.Model.set_weights`.

    Raises:
        InputError: the images or a layer of the other model have another form.
    """
    _check_images(config, dataset, start)
    keras.utils.set_random_seed(config.training.seed)
    model = architectures.build(config.model, config.image.shape, len(dataset.classes))
    ours, theirs = ([layer for layer in m.layers if layer.weights] for m in (model, start.model))
    for own, its in zip_longest(ours, theirs):
        here, there = ([] if layer is None else _shapes(layer) for layer in (own, its))
        if here != there:
            raise InputError(
                f"training.start_from={config.training.start_from}: the layer "
                f"{(own or its).name} has weights of the shapes {_text(there)} in that version, "
                f"but {_text(here)} with these settings. Use the same settings model (and for "
                f"model=article image.height and image.width) as the run of that version: they "
                f"are in its file config/params.yaml."
            )
        if own.name != OUTPUT:
            own.set_weights(its.get_weights())
    known = start.metadata.classes
    ours[-1].set_weights(
        output_weights(ours[-1].get_weights(), dataset.classes, theirs[-1].get_weights(), known)
    )
    print(
        f"First weights: those of {config.training.start_from}. The output layer knows "
        f"{_text([name for name in dataset.classes if name in known])} from there; new classes: "
        f"{_text([name for name in dataset.classes if name not in known])}; no longer a class: "
        f"{_text([name for name in known if name not in dataset.classes])}."
    )
    weights: list[Floats] = model.get_weights()
    return weights


def output_weights(
    new: list[Floats], classes: list[str], stored: list[Floats], known: list[str]
) -> list[Floats]:
    """Return the weights of an output layer, with those of another one for the classes it knows.

    The output of two classes is one sigmoid, whose logit is that of the second class; the first
    class then has the logit 0.

    Args:
        new: Random kernel, float32 of shape (features, outputs), and bias, of shape (outputs,).
        classes: Their classes.
        stored: Kernel and bias of the other layer, with the same number of features.
        known: The classes of the other layer.
    """
    logits, learnt = _logits(new), _logits(stored)
    for index, name in enumerate(classes):
        if name in known:
            logits[:, index] = learnt[:, known.index(name)]
    if len(classes) == 2:
        logits = logits[:, 1:] - logits[:, :1]
    return [logits[:-1], logits[-1]]


def _logits(weights: list[Floats]) -> Floats:
    """Return what makes the logit of each class: shape (features + 1, classes), the bias last."""
    logits = np.vstack(weights)
    return np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits


def _check_images(config: Config, dataset: PreparedDataset, start: "Classifier") -> None:
    """Compare how the images of both models are prepared; their size may differ.

    Raises:
        InputError: the channels or the fit differ.
    """
    its = start.metadata
    for name in ("channels", "fit"):
        here, there = getattr(config.image, name), getattr(its, name)
        if here != there:
            raise InputError(
                f"training.start_from={config.training.start_from} was trained with "
                f"image.{name}={there}, but image.{name} is {here}. Set image.{name}={there}."
            )
    if its.scale != dataset.scale:  # found anew in every dataset: a small change must not stop it
        print(
            f"WARNING: the values that become 0 and 255 in images with more than 8 bits are "
            f"{dataset.scale}; {config.training.start_from} was trained with {its.scale}, so it "
            f"knows these images with another brightness."
        )


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    """Return the shapes of a layer's weights; of the output layer without the classes."""
    shapes = [tuple(weight.shape) for weight in layer.weights]
    return [shape[:-1] for shape in shapes] if layer.name == OUTPUT else shapes


def _text(items: list[str] | list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, items)) or "none"
