"""What is known about the images of a dataset: their classes and splits, and what is not used."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from image_classifier.errors import InputError
from image_classifier.project.tables import read_rows, write_rows

SplitName = Literal["train", "validation", "test"]
UNKNOWN = "unknown"  # the answer of a model in doubt, where the settings want it
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class LabelledImage:
    """An image and what its folder or table says about it.

    Attributes:
        path: Relative to the dataset's folder, with slashes.
        label: The name of its class.
        split: train, validation or test; empty when the dataset does not say.
        group: The patient or other group, or empty.
        source: The hospital, camera or other source, or empty.
    """

    path: str
    label: str
    split: str = ""
    group: str = ""
    source: str = ""


@dataclass(frozen=True)
class UnusedFile:
    """A file or folder that is not used: its path in the dataset, its kind, and details."""

    path: str
    kind: str
    reason: str = ""


@dataclass
class Labels:
    """The images of a dataset with their classes, what is not used, and what was decided.

    Attributes:
        images: The images that are used.
        unused: The files that are not used.
        notes: Sentences about what was guessed or found.
    """

    images: list[LabelledImage] = field(default_factory=list)
    unused: list[UnusedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def count_labels(images: Sequence[LabelledImage]) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split; `all` without splits."""
    counts = Counter((image.split or "all", image.label) for image in images)
    result: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counts.items()):
        result.setdefault(split, {})[label] = number
    return result


def count_unused(unused: Iterable[UnusedFile]) -> dict[str, int]:
    """Return the number of unused files of each kind."""
    return dict(sorted(Counter(item.kind for item in unused).items()))


def summarize_unused(unused: Iterable[UnusedFile], at_most: int = 3) -> list[str]:
    """Return a line for each kind of unused files: their number, and the names of the first."""
    kinds: dict[str, list[UnusedFile]] = {}
    for item in unused:
        kinds.setdefault(item.kind, []).append(item)
    lines = []
    for kind, items in sorted(kinds.items()):
        names = [
            f"{item.path} ({item.reason})" if item.reason else item.path
            for item in sorted(items, key=lambda item: item.path)[:at_most]
        ]
        more = f" and {len(items) - at_most} more" if len(items) > at_most else ""
        lines.append(f"Not used: {len(items)} ({kind}): {', '.join(names)}{more}")
    return lines


def order_classes(labels: set[str], positive_class: str | None) -> list[str]:
    """Return the classes sorted; of two, the positive one last, so that its index is 1.

    Raises:
        InputError: there are two classes and no positive class is set, or the positive class does
            not exist.
    """
    classes = sorted(labels)
    if positive_class is not None and positive_class not in classes:
        raise InputError(
            f"dataset.positive_class={positive_class} is not one of the classes "
            f"{', '.join(classes)}: set it to one of them (null with more than two classes)."
        )
    if len(classes) > 2:
        return classes
    if positive_class is None:
        raise InputError(
            f"There are two classes, {' and '.join(classes)}: set the positive one, e.g. "
            f"dataset.positive_class={classes[0]}."
        )
    return sorted(classes, key=lambda label: label == positive_class)


def write_labels(images: Sequence[LabelledImage], path: Path) -> None:
    """Write a CSV file with one row for each image."""
    write_rows(images, LabelledImage, path)


def read_labels(path: Path, stage: str) -> list[LabelledImage]:
    """Read what `write_labels` wrote.

    Args:
        path: The file.
        stage: The stage that writes it, for messages.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_rows(path, stage, LabelledImage, lambda row: LabelledImage(**row))


def write_unused(unused: Sequence[UnusedFile], path: Path) -> None:
    """Write a CSV file with one row for each file or folder that is not used."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "kind", "reason"])
        writer.writerows((item.path, item.kind, item.reason) for item in unused)
