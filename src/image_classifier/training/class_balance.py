"""What unequal classes get: weights in the loss, or more places in an epoch."""

import numpy as np
import numpy.typing as npt
from sklearn.utils.class_weight import compute_class_weight

from image_classifier.config.schema import Training
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError

Rows = npt.NDArray[np.int64]


def class_weights(training: Training, dataset: PreparedDataset) -> npt.NDArray[np.float32] | None:
    """Return the weight of each class in the loss; None: all are equal.

    `balanced` is scikit-learn's: images / (classes * images of the class).

    Returns:
        float32 array of shape (classes,).

    Raises:
        InputError: `training.class_weights` does not name exactly the classes of the dataset.
    """
    chosen, classes = training.class_weights, dataset.classes
    if chosen is None:
        return None
    if chosen == "balanced":
        labels = dataset.labels[dataset.indices("train")]
        weights = compute_class_weight("balanced", classes=np.arange(len(classes)), y=labels)
        return np.asarray(weights, np.float32)
    if set(chosen) != set(classes):
        raise InputError(
            f"training.class_weights must have a weight for each class: {', '.join(classes)}. It "
            f"has {', '.join(chosen)}."
        )
    return np.array([chosen[name] for name in classes], np.float32)


def balanced_rows(labels: npt.NDArray[np.int64], generator: np.random.Generator) -> Rows:
    """Return rows in which every class is equally frequent. There are as many rows as labels.

    A class that is too small gives all its images several times; of a class that is too large, a
    random part is left out.

    Args:
        labels: int64 array of shape (images,).
        generator: Decides which images are left out or repeated once more.
    """
    classes = np.unique(labels)
    chosen = []
    for position, label in enumerate(classes):
        first, last = (len(labels) * number // len(classes) for number in (position, position + 1))
        wanted = last - first
        own = np.flatnonzero(labels == label)
        rounds = [generator.permutation(own) for _ in range(-(-wanted // len(own)))]
        chosen.append(np.concatenate(rounds)[:wanted])
    return np.concatenate(chosen)
