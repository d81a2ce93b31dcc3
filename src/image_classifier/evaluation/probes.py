"""Probes: classifiers that see only file metadata, or only the border of the image.

If a probe does well, the model may be using a shortcut. In a public COVID-19 set, file metadata
alone separate the classes, because each class came from another hospital. A CNN can learn the
hospital instead of the disease, and its test accuracy does not show that. The probes do: the same
images and the same split, but no lungs.
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
from image_classifier.evaluation.bootstrap import (
    mean_recall_ends,
    percentiles,
    resample,
    wider,
)
from image_classifier.evaluation.metrics import balanced_accuracy

SIDE = 20  # the border probe divides an image into SIDE x SIDE cells,
RIM = 2  # and sees this many at each side: the outer tenth

DESCRIPTIONS = {
    "metadata": "file metadata: format, colour mode, width, height, bytes per pixel",
    "border": "the outer tenth of the image at each side",
}


@dataclass(frozen=True)
class Probe:
    """How well a probe does on the test images.

    Attributes:
        name: `metadata` or `border`.
        balanced_accuracy: The mean recall of the classes, 0 to 1: unequal classes do not help.
        low: Lower end of its 95% interval, the bootstrap's or that of the recalls.
        high: Upper end of that interval.
        chance: 1 / classes.
        share: The probe's lead over chance as a fraction of the model's, 0 to 1.
        suspicious: Whether the interval is above chance and the share reaches the threshold, or
            the probe is above chance and at least as good as the model.
        leading: The most important feature, if features have names.
    """

    name: str
    balanced_accuracy: float
    low: float
    high: float
    chance: float
    share: float
    suspicious: bool
    leading: str | None


def run_probes(
    dataset: PreparedDataset, model_score: float, shortcut_threshold: float
) -> list[Probe]:
    """Train both probes on the training images, and measure them on the test images.

    Args:
        dataset: The prepared images.
        model_score: The model's balanced accuracy on the test images, 0 to 1.
        shortcut_threshold: A probe is suspicious from this share on, 0 to 1.
    """
    facts, names = metadata_features(dataset.rows)
    return [
        run_probe("metadata", facts, names, dataset, model_score, shortcut_threshold),
        run_probe(
            "border", border_features(dataset), None, dataset, model_score, shortcut_threshold
        ),
    ]


def run_probe(
    name: str,
    features: npt.NDArray[np.float64],
    names: Sequence[str] | None,
    dataset: PreparedDataset,
    model_score: float,
    shortcut_threshold: float,
) -> Probe:
    """Train a random forest on the training rows, and measure it on the test rows.

    Args:
        name: The probe's name.
        features: float array of shape (rows of the manifest, features).
        names: The names of the features, or None.
        dataset: Labels and splits.
        model_score: See `run_probes`.
        shortcut_threshold: See `run_probes`.
    """
    train, test = dataset.indices("train"), dataset.indices("test")
    forest = RandomForestClassifier(
        n_estimators=100, min_samples_leaf=2, class_weight="balanced", random_state=0
    )
    forest.fit(features[train], dataset.labels[train])
    labels, predicted = dataset.labels[test], forest.predict(features[test])
    clusters = [dataset.rows[row].cluster for row in test]
    drawn = percentiles(
        [balanced_accuracy(labels[rows], predicted[rows]) for rows in resample(clusters)]
    )
    low, high = wider(drawn, mean_recall_ends(labels, predicted, clusters))
    score, chance = balanced_accuracy(labels, predicted), 1 / len(dataset.classes)
    share = float(np.clip((score - chance) / max(model_score - chance, 1e-9), 0, 1))
    as_good = score >= model_score and score > chance
    suspicious = as_good or (low > chance and share >= shortcut_threshold)
    leading = names[int(forest.feature_importances_.argmax())] if names else None
    return Probe(name, score, low, high, chance, share, suspicious, leading)


def metadata_features(rows: Sequence[ImageRow]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return file metadata as numbers, float array of shape (rows, features), and their names."""
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
