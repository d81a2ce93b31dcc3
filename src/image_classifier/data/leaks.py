"""Copies of an image, and images of one group, that lie in two splits or two classes."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass

from image_classifier import paths
from image_classifier.data.copies import Fingerprint, Pair
from image_classifier.data.folders import SPLITS, FoundImage
from image_classifier.errors import InputError
from image_classifier.files import whole_file


@dataclass(frozen=True)
class Examined:
    """A readable image: where it lies, and what its file is."""

    found: FoundImage
    path: str
    group: str
    fingerprint: Fingerprint


def refuse_contradictions(images: Sequence[Examined], pairs: Sequence[Pair]) -> None:
    """Raise an InputError where copies of one image are in two classes."""
    wrong = [
        f"{images[pair.first].path} and {images[pair.second].path} ({pair.kind}, {pair.distance})"
        for pair in pairs
        if pair.kind != "same group"
        and images[pair.first].found.label != images[pair.second].found.label
    ]
    if wrong:
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise InputError(
            "The same image is in two classes:\n  "
            + "\n  ".join(wrong[:20])
            + f"{more}\nKeep the right one of each. If near copies are different images after "
            f"all, set split.copy_distance below the number in brackets."
        )


def find_leaks(
    images: Sequence[Examined], pairs: Sequence[Pair], together: Sequence[int]
) -> dict[int, str]:
    """Return the images that a dataset's own split has in two places, each with a sentence why.

    What training has stays there; it is validation and test images that leak, and test images
    that validation has.
    """
    order = {name: place for place, name in enumerate(SPLITS)}
    home: dict[int, int] = {}  # the place of each component's images that stay
    for image, component in zip(images, together, strict=True):
        if image.found.split:
            place = order[image.found.split]
            home[component] = min(home.get(component, place), place)
    partners: dict[int, list[tuple[str, int]]] = {}
    for pair in pairs:
        text = "" if pair.kind == "same group" else f" (distance {pair.distance})"
        partners.setdefault(pair.first, []).append((pair.kind + text, pair.second))
        partners.setdefault(pair.second, []).append((pair.kind + text, pair.first))
    leaking = {}
    for index, (image, component) in enumerate(zip(images, together, strict=True)):
        if image.found.split and order[image.found.split] > home[component]:
            stays = [
                (kind, images[other].path)
                for kind, other in partners[index]
                if order[images[other].found.split or "train"] == home[component]
            ]
            kind, path = stays[0] if stays else ("linked", images[partners[index][0][1]].path)
            leaking[index] = f"leaks: {kind}, {path}"
    return leaking


def leaks_message(images: Sequence[Examined], leaking: dict[int, str]) -> str:
    """Return what leaks, by name, and what is done about it."""
    lines = [f"  {images[index].path} {reason}" for index, reason in leaking.items()]
    more = [f"  and {len(lines) - 20} more, see {paths.COPIES}"] if len(lines) > 20 else []
    return "\n".join(
        [
            f"{len(leaking)} images are in two splits of the dataset (split.leaks: drop leaves "
            f"out those outside training, stop stops):",
            *lines[:20],
            *more,
        ]
    )


def write_copies(
    images: Sequence[Examined], pairs: Sequence[Pair], leaking: dict[int, str]
) -> None:
    """Write a row for each pair of images that belong together."""
    with whole_file(paths.COPIES) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["first", "second", "kind", "distance", "leaks"])
        for pair in pairs:
            leaks = "yes" if pair.first in leaking or pair.second in leaking else "no"
            writer.writerow(
                [images[pair.first].path, images[pair.second].path, pair.kind, pair.distance, leaks]
            )
