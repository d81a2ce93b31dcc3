"""Duplicates and groups that occur in two splits, or in two classes."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_classifier.data.folders import SPLITS, FoundImage
from image_classifier.data.near_duplicates import Fingerprint, Pair
from image_classifier.errors import InputError
from image_classifier.project import paths

LISTED = 20  # file names in a message


@dataclass(frozen=True)
class ScannedImage:
    """A readable image: where it is, its group, and its fingerprint."""

    found: FoundImage
    path: str
    group: str
    fingerprint: Fingerprint


def refuse_contradictions(images: Sequence[ScannedImage], pairs: Sequence[Pair]) -> None:
    """Raise an InputError if duplicates of one image are in two classes."""
    wrong = [
        f"{images[pair.first].path} and {images[pair.second].path} ({pair.kind}, {pair.distance})"
        for pair in pairs
        if pair.kind != "same group"
        and images[pair.first].found.label != images[pair.second].found.label
    ]
    if wrong:
        more = f"\n  and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise InputError(
            "The same image is in two classes:\n  "
            + "\n  ".join(wrong[:LISTED])
            + f"{more}\nKeep the right one of each pair. If near duplicates are in fact different "
            f"images, set split.duplicate_distance below the smallest number in parentheses."
        )


def find_leaks(
    images: Sequence[ScannedImage], pairs: Sequence[Pair], component_ids: Sequence[int]
) -> dict[int, str]:
    """Return the images that a dataset's own splits contain twice, each with the reason.

    The image in training stays. Validation images that are also in training leak, and test images
    that are also in training or validation.

    Args:
        images: All images.
        pairs: The images that belong together.
        component_ids: A number for each image; images that belong together have the same.
    """
    order = {name: place for place, name in enumerate(SPLITS)}
    home: dict[int, int] = {}  # the split that keeps the images of a component
    for image, component in zip(images, component_ids, strict=True):
        if image.found.split:
            place = order[image.found.split]
            home[component] = min(home.get(component, place), place)
    partners: dict[int, list[tuple[str, int]]] = {}
    for pair in pairs:
        text = "" if pair.kind == "same group" else f" (distance {pair.distance})"
        partners.setdefault(pair.first, []).append((pair.kind + text, pair.second))
        partners.setdefault(pair.second, []).append((pair.kind + text, pair.first))
    leaking = {}
    for index, (image, component) in enumerate(zip(images, component_ids, strict=True)):
        if image.found.split and order[image.found.split] > home[component]:
            stays = [
                (kind, images[other].path)
                for kind, other in partners[index]
                if order[images[other].found.split or "train"] == home[component]
            ]
            kind, path = (
                stays[0]
                if stays
                else ("connected through other duplicates", images[partners[index][0][1]].path)
            )
            leaking[index] = f"leaks: {kind}, {path}"
    return leaking


def leaks_message(
    images: Sequence[ScannedImage], leaking: dict[int, str], action: Literal["drop", "stop"]
) -> str:
    """Return the names of the leaking images, and what is done about them."""
    done = (
        "They are excluded from validation and test (split.leaks=drop):"
        if action == "drop"
        else "split.leaks=stop does not allow this. Remove the copies, or set split.leaks=drop to "
        "exclude them from validation and test:"
    )
    lines = [f"  {images[index].path} {reason}" for index, reason in leaking.items()]
    more = (
        [f"  and {len(lines) - LISTED} more, see {paths.DUPLICATES}"] if len(lines) > LISTED else []
    )
    return "\n".join(
        [
            f"{len(leaking)} images occur in two splits of the dataset. {done}",
            *lines[:LISTED],
            *more,
        ]
    )


def write_pairs(
    images: Sequence[ScannedImage], pairs: Sequence[Pair], leaking: dict[int, str], path: Path
) -> None:
    """Write a CSV file with one row for each pair of images that belong together."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["first", "second", "kind", "distance", "leaks"])
        for pair in pairs:
            leaks = "yes" if pair.first in leaking or pair.second in leaking else "no"
            writer.writerow(
                [images[pair.first].path, images[pair.second].path, pair.kind, pair.distance, leaks]
            )
