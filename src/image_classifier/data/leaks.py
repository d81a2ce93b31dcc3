"""Duplicates and groups that occur in two splits, or in two classes."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_classifier.data.images import Pixels
from image_classifier.data.labels import SPLITS, LabelledImage
from image_classifier.data.near_duplicates import Fingerprint, Pair, differs_in_one_place
from image_classifier.project import paths

LISTED = 20  # file names in a message


@dataclass(frozen=True)
class ScannedImage:
    """A readable image: what its folder or table says, its group and source, its fingerprint."""

    found: LabelledImage
    group: str
    source: str
    fingerprint: Fingerprint

    @property
    def path(self) -> str:
        """Its path in the dataset, with slashes."""
        return self.found.path


def find_contradictions(
    images: Sequence[ScannedImage], pairs: Sequence[Pair], pixels: Callable[[int], Pixels]
) -> tuple[dict[int, str], int]:
    """Return the images of which a duplicate has another class, each with the reason.

    Near duplicates that differ mainly in one place, as images of a fixed camera with and without
    an object, do not count.

    Args:
        images: All images.
        pairs: The images that belong together.
        pixels: See `near_duplicates.find_pairs`.

    Returns:
        The reasons by position, and the number of pairs that differ mainly in one place.
    """
    found: dict[int, str] = {}
    in_one_place = 0
    by_digest: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        by_digest.setdefault(image.fingerprint.sha256, []).append(index)
    for same in by_digest.values():
        for index in same:
            label = images[index].found.label
            other = next((i for i in same if images[i].found.label != label), None)
            if other is not None:
                found[index] = _contradiction("exact duplicate", images[other])
    for pair in pairs:
        first, second = images[pair.first], images[pair.second]
        if pair.kind != "near duplicate" or first.found.label == second.found.label:
            continue
        if differs_in_one_place(pixels(pair.first), pixels(pair.second)):
            in_one_place += 1
            continue
        kind = f"near duplicate (distance {pair.distance})"
        found.setdefault(pair.first, _contradiction(kind, second))
        found.setdefault(pair.second, _contradiction(kind, first))
    return found, in_one_place


def contradictions_message(
    images: Sequence[ScannedImage], found: dict[int, str], action: Literal["drop", "stop"]
) -> str:
    """Return the names of the images that have two classes, and what is done about them."""
    done = (
        "They are left out (split.contradictions=drop):"
        if action == "drop"
        else "Write the right label of each, or `drop`, into the file of dataset.corrections, or "
        "set split.contradictions=drop to leave all of them out."
    )
    if action == "stop" and any("near duplicate" in reason for reason in found.values()):
        done += (
            " If near duplicates are in fact different images, set split.duplicate_distance below "
            "the smallest distance listed here, or to null for no search."
        )
    lines = [
        f"{images[index].path} ({images[index].found.label}) {reason}"
        for index, reason in found.items()
    ]
    text = f"{len(found)} images have a duplicate in another class. {done}"
    return _with_names(text, lines, paths.CONTRADICTIONS)


def write_contradictions(images: Sequence[ScannedImage], found: dict[int, str], path: Path) -> None:
    """Write a CSV file with one row for each image that has a duplicate in another class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "reason"])
        for index, reason in found.items():
            writer.writerow([images[index].path, images[index].found.label, reason])


def _contradiction(kind: str, other: ScannedImage) -> str:
    return f"in two classes: {kind} of {other.path} ({other.found.label})"


def find_leaks(
    images: Sequence[ScannedImage],
    pairs: Sequence[Pair],
    component_ids: Sequence[int],
    certain: Sequence[int],
) -> dict[int, str]:
    """Return the images that a dataset's own splits contain twice, each with the reason.

    The image in training stays. Validation images that are also in training leak, and test images
    that are also in training or validation.

    Args:
        images: All images.
        pairs: The images that belong together.
        component_ids: A number for each image; images that belong together have the same.
        certain: The positions of the images that are not left out already.
    """
    order: dict[str, int] = {name: place for place, name in enumerate(SPLITS)}
    home: dict[int, int] = {}  # the split that keeps the images of a component
    for index in certain:
        split, component = images[index].found.split, component_ids[index]
        if split:
            home[component] = min(home.get(component, order[split]), order[split])
    partners: dict[int, list[tuple[str, int]]] = {}
    for pair in pairs:
        text = "" if pair.kind == "same group" else f" (distance {pair.distance})"
        partners.setdefault(pair.first, []).append((pair.kind + text, pair.second))
        partners.setdefault(pair.second, []).append((pair.kind + text, pair.first))
    leaking = {}
    for index in certain:
        image, component = images[index], component_ids[index]
        if image.found.split and order[image.found.split] > home[component]:
            stays = [
                (kind, images[other].path)
                for kind, other in partners[index]
                if order[images[other].found.split or "train"] == home[component]
            ]
            if stays:
                leaking[index] = f"leaks: {stays[0][0]}, {stays[0][1]}"
            else:
                leaking[index] = (
                    f"leaks: linked with an image in {SPLITS[home[component]]} through a chain of "
                    f"duplicates or groups; the next image of the chain is "
                    f"{images[partners[index][0][1]].path}"
                )
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
    lines = [f"{images[index].path} {reason}" for index, reason in leaking.items()]
    text = f"{len(leaking)} images occur in two splits of the dataset. {done}"
    return _with_names(text, lines, paths.DUPLICATES)


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


def _with_names(text: str, lines: Sequence[str], file: Path) -> str:
    """Return a text with the first lines below it, and the file that has all of them."""
    more = [f"and {len(lines) - LISTED} more, see {file}"] if len(lines) > LISTED else []
    return "\n  ".join([text, *lines[:LISTED], *more])
