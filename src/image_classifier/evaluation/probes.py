"""Cheap probes that see nothing of what matters: where they do well, a model may have a shortcut.

On a public COVID-19 set, file facts alone tell the classes apart, because each class came from
another hospital. A CNN can learn the hospital instead of the disease; its test accuracy does not
show that. The probes do: same split, same images, but no lungs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import OneHotEncoder

from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation.metrics import RESAMPLES, percentiles, resample

SIDE = 20  # the border probe sees a picture of SIDE x SIDE cells,
RIM = 2  # of which so many at each side: the outer tenth

DESCRIPTIONS = {
    "metadata": "file facts: format, colour mode, width, height, bytes per pixel",
    "border": "the outer tenth of the picture at each side, corners included",
}


@dataclass(frozen=True)
class Probe:
    """How well a probe does on the test images.

    Attributes:
        name: `metadata` or `border`.
        accuracy: Share of right answers, 0 to 1.
        low: Lower end of its 95% bootstrap interval.
        high: Upper end of it.
        chance: The share of the most frequent class.
        share: What the probe knows beyond chance as a share of what the model knows, 0 to 1.
        suspicious: Whether it beats chance, and its share reaches the limit.
        leading: The feature that decides most, where features have names.
    """

    name: str
    accuracy: float
    low: float
    high: float
    chance: float
    share: float
    suspicious: bool
    leading: str | None


def run(dataset: PreparedDataset, model_accuracy: float, limit: float) -> list[Probe]:
    """Train both probes on the training images and measure them on the test images.

    Args:
        dataset: The prepared images.
        model_accuracy: The model's accuracy on the test images, 0 to 1.
        limit: From which share of the model's knowledge a probe is suspicious, 0 to 1.
    """
    facts, names = metadata_features(dataset.rows)
    return [
        probe("metadata", facts, names, dataset, model_accuracy, limit),
        probe("border", border_features(dataset), None, dataset, model_accuracy, limit),
    ]


def probe(
    name: str,
    features: npt.NDArray[np.float64],
    names: Sequence[str] | None,
    dataset: PreparedDataset,
    model_accuracy: float,
    limit: float,
) -> Probe:
    """Train a random forest on the training rows of a table, and measure it on the test rows.

    Args:
        name: The probe's name.
        features: float array of shape (rows of the manifest, features).
        names: Those of the features, if they have some.
        dataset: Labels and splits.
        model_accuracy: See `run`.
        limit: See `run`.
    """
    train, test = dataset.indices("train"), dataset.indices("test")
    forest = RandomForestClassifier(n_estimators=100, min_samples_leaf=2, random_state=0)
    forest.fit(features[train], dataset.labels[train])
    right = forest.predict(features[test]) == dataset.labels[test]
    units = [dataset.rows[row].unit for row in test]
    low, high = percentiles([right[rows].mean() for rows in resample(units, RESAMPLES, seed=0)])
    accuracy = float(right.mean())
    chance = float(np.bincount(dataset.labels[test]).max() / len(test))
    share = float(np.clip((accuracy - chance) / max(model_accuracy - chance, 1e-9), 0, 1))
    suspicious = low > chance and share >= limit
    leading = names[int(forest.feature_importances_.argmax())] if names else None
    return Probe(name, accuracy, low, high, chance, share, suspicious, leading)


def metadata_features(rows: Sequence[ImageRow]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return file facts as numbers, float array of shape (rows, facts), and the facts' names."""
    encoder = OneHotEncoder(
        sparse_output=False, feature_name_combiner=lambda fact, value: f"{fact} {value}"
    )
    kinds = encoder.fit_transform([[row.format, row.mode] for row in rows])
    numbers = [[row.width, row.height, row.bytes / (row.width * row.height)] for row in rows]
    names = [*encoder.get_feature_names_out(["format", "mode"]), "width", "height"]
    return np.hstack([kinds, numbers]), [*names, "bytes per pixel"]


def border_features(dataset: PreparedDataset) -> npt.NDArray[np.float64]:
    """Return the mean brightness of the cells at the border: float array of shape (rows, cells)."""
    cells = np.ones((SIDE, SIDE), bool)
    cells[RIM:-RIM, RIM:-RIM] = False
    return np.array(
        [
            cv2.resize(dataset.images[row], (SIDE, SIDE), interpolation=cv2.INTER_AREA)[cells]
            for row in range(len(dataset.rows))
        ],
        np.float64,
    ).reshape(len(dataset.rows), -1)
