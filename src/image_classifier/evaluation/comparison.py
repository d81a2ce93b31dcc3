"""Compares two versions on the test images that neither has seen."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.data.manifest import ImageRow
from image_classifier.data.near_duplicates import Pair, component_ids, have_near
from image_classifier.errors import InputError
from image_classifier.evaluation.bootstrap import percentiles, resample
from image_classifier.evaluation.looks import widened
from image_classifier.evaluation.metrics import balanced_accuracy, f1_macro
from image_classifier.project import paths

FEWEST = 20  # with fewer test images, hardly any difference between two models is certain
METRICS = {
    "balanced_accuracy": balanced_accuracy,
    "accuracy": lambda labels, predicted: float(np.mean(labels == predicted)),
    "f1_macro": f1_macro,
}


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same test images.

    Attributes:
        champion_version: The version that the challenger is compared with.
        metric: The name of the metric.
        images: The number of test images.
        left_out: The number of other test images, which the champion has seen.
        challenger: The challenger's value of the metric.
        champion: The champion's value.
        difference_low: Lower end of the bootstrap interval of the difference.
        difference_high: Upper end of that interval.
        differing: The number of independent images on which only one of the two is right.
        level: The level of the interval; see `looks.level_of_look`.
    """

    champion_version: str
    metric: str
    images: int
    left_out: int
    challenger: float
    champion: float
    difference_low: float
    difference_high: float
    differing: int
    level: float


def unseen(
    rows: Sequence[ImageRow],
    seen: Sequence[ImageRow],
    pairs: Sequence[tuple[str, str]],
    distance: int | None,
) -> list[ImageRow]:
    """Return the test images that a version has not seen, nor a near duplicate of them.

    An image that chose the epoch or the threshold counts as seen, so validation images do, too.

    Args:
        rows: The current manifest.
        seen: The manifest that the version was trained with.
        pairs: Paths of current images that belong together: duplicates, or of one group.
        distance: See `near_duplicates.have_near`; None: no search for near duplicates.
    """
    known = [row for row in seen if row.split != "test"]
    files = {row.sha256 for row in known}
    groups = {row.group for row in known if row.group}
    # images that are still in the dataset, and their duplicates: split has found these
    number = {path: i for i, path in enumerate({row.path for row in rows}.union(*pairs))}
    connected = [Pair(number[first], number[second], "", 0) for first, second in pairs]
    component = component_ids(connected, len(number))
    out = {
        int(component[number[row.path]])
        for row in rows
        if row.sha256 in files or row.group in groups
    }
    left = [
        row for row in rows if row.split == "test" and int(component[number[row.path]]) not in out
    ]
    # duplicates of images that the dataset no longer has
    current = {row.sha256 for row in rows}
    gone = [row.perceptual_hash for row in known if row.sha256 not in current]
    if distance is not None and left and gone:
        near = have_near([row.perceptual_hash for row in left], gone, distance)
        left = [row for row, is_near in zip(left, near, strict=True) if not is_near]
    return left


def read_pairs() -> list[tuple[str, str]]:
    """Return the pairs of images that `split` keeps together.

    Raises:
        InputError: split has not run.
    """
    if not paths.DUPLICATES.is_file():
        raise InputError(f"{paths.DUPLICATES} not found: run `dvc repro split`.")
    with paths.DUPLICATES.open(newline="") as file:
        return [(row["first"], row["second"]) for row in csv.DictReader(file)]


def difference(
    metric: str,
    rows: Sequence[ImageRow],
    challenger: Sequence[str],
    champion: Sequence[str],
    level: float,
) -> tuple[float, float, float, float, int]:
    """Return the metric of two versions, the interval of the difference, and where they differ.

    Both are scored on the same bootstrap samples of the images. The last number is that of the
    clusters with an image on which only one of the two is right.

    Args:
        metric: One of `METRICS`.
        rows: The test images.
        challenger: The class that the challenger predicts for each.
        champion: The class that the champion predicts for each.
        level: The level of the interval, which is widened from 95% (`looks.widened`).
    """
    score = METRICS[metric]
    names = sorted({row.label for row in rows} | set(challenger) | set(champion))
    number = {name: index for index, name in enumerate(names)}

    def numbers(values: Iterable[str]) -> npt.NDArray[np.int64]:
        return np.array([number[value] for value in values], np.int64)

    labels, ours, theirs = (
        numbers(row.label for row in rows), numbers(challenger), numbers(champion)
    )  # fmt: skip
    differences = [
        score(labels[sample], ours[sample]) - score(labels[sample], theirs[sample])
        for sample in resample([row.cluster for row in rows])
    ]
    values = score(labels, ours), score(labels, theirs)
    ends = widened(values[0] - values[1], *percentiles(differences), level)
    one_right = (ours == labels) != (theirs == labels)
    differing = {row.cluster for row, differs in zip(rows, one_right, strict=True) if differs}
    return *values, max(-1.0, ends[0]), min(1.0, ends[1]), len(differing)
