"""Assigns images to splits and folds: images that belong together are never separated.

The split of an image follows from a hash of its group, or of its content, and the seed. So images
that are added later move no other image, unless a class would miss its share.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sklearn.model_selection import StratifiedGroupKFold

from image_classifier.config.schema import Split
from image_classifier.data.labels import SPLITS, SplitName
from image_classifier.errors import InputError

# How far the share of a class may be from the wanted one, as a fraction of it: 12% to 28% where
# 20% is wanted. Outside, the fewest possible images are moved (benchmarks/added_images.md).
TOLERANCE = 0.4


@dataclass
class Bundle:
    """Images that belong together: duplicates, and images of one group.

    Attributes:
        key: Decides the split: the group, or the SHA-256 of the content.
        name: For messages.
        indices: Positions of the images.
        counts: Number of images of each class.
    """

    key: str
    name: str
    indices: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Item:
    """What decides the split of one image.

    Attributes:
        label: Its class.
        given: The dataset's own split of the image, or empty.
        group: Its group, or empty.
        digest: SHA-256 of its file.
        path: For messages.
        component: A number; images with the same number stay together.
    """

    label: str
    given: str
    group: str
    digest: str
    path: str
    component: int


def first_match(pattern: str | None, text: str) -> str:
    """Return what the first group of a pattern matches (without groups, the whole), or empty."""
    match = re.search(pattern, text) if pattern else None
    return (match[1] if match.re.groups else match[0]) or "" if match else ""


def assign(
    items: Sequence[Item], split: Split, given: Collection[str]
) -> tuple[list[SplitName], list[str]]:
    """Return the split of every image, the dataset's own or a drawn one, and remarks for people.

    A split that the dataset has not itself is drawn from its training images. The share of every
    class is a share of images. It may differ from the wanted share by TOLERANCE; where
    a group is too large for that, the remarks name it.

    Args:
        items: The images.
        split: Fractions and seed.
        given: The splits that the dataset has itself, even if all their images leaked.
    """
    splits: list[SplitName] = [
        next((name for name in SPLITS if name == item.given), "train") for item in items
    ]
    remarks: list[str] = []
    for name, fraction in (
        ("test", split.test_fraction),
        ("validation", split.validation_fraction),
    ):
        if name not in given:
            pool = _bundles(items, splits)
            drawn = draw(pool, name, fraction, split.seed, remarks)
            for bundle in drawn:
                for index in bundle.indices:
                    splits[index] = "test" if name == "test" else "validation"
    return splits, remarks


def draw(
    pool: Sequence[Bundle], name: str, fraction: float, seed: int, remarks: list[str]
) -> list[Bundle]:
    """Return the bundles of a split.

    Args:
        pool: The bundles to draw from.
        name: The split.
        fraction: The wanted share of the images of every class.
        seed: Another seed gives another split.
        remarks: Sentences for people are added.
    """
    position = {bundle.key: _position(bundle.key, name, seed) for bundle in pool}
    ordered = sorted(pool, key=lambda bundle: (position[bundle.key], bundle.key))
    totals: Counter[str] = sum((bundle.counts for bundle in pool), Counter())
    limits = {label: _limits(number, fraction) for label, number in totals.items()}

    fitting = []
    for bundle in ordered:
        too_large = [c for c, n in bundle.counts.items() if n > limits[c][1]]
        if too_large and sum(bundle.counts.values()) > 1:
            shares = ", ".join(f"{bundle.counts[c]} of {totals[c]} {c}" for c in too_large)
            remarks.append(f"{bundle.name} ({shares}) is too large for {name}: it is in training.")
        else:
            fitting.append(bundle)

    chosen = {bundle.key for bundle in fitting if position[bundle.key] < fraction}
    by_hash = frozenset(chosen)
    counts: Counter[str] = Counter()
    for bundle in fitting:
        if bundle.key in chosen:
            counts += bundle.counts
    for label in sorted(totals, key=lambda label: (totals[label], label)):
        low, high = limits[label]
        with_label = [bundle for bundle in fitting if bundle.counts[label]]
        for bundle in with_label:  # those that the hash would draw next
            if counts[label] >= low:
                break
            if bundle.key not in chosen and _improves(counts, bundle.counts, 1, limits):
                chosen.add(bundle.key)
                counts += bundle.counts
        for bundle in reversed(with_label):  # those that the hash drew last
            if counts[label] <= high:
                break
            if bundle.key in chosen and _improves(counts, bundle.counts, -1, limits):
                chosen.remove(bundle.key)
                counts -= bundle.counts
        if not low <= counts[label] <= high:
            remarks.append(
                f"{name} has {counts[label]} of {totals[label]} images of {label}: the groups do "
                f"not allow {fraction:.0%}."
            )
    moved = len(chosen ^ by_hash)
    if moved:
        remarks.append(
            f"{moved} of {len(ordered)} images or groups, chosen by the hash, were added to {name} "
            f"or taken out of it, so that every class has about its share. Their split may change "
            f"again when you add images."
        )
    return [bundle for bundle in ordered if bundle.key in chosen]


def assign_folds(
    items: Sequence[Item], splits: Sequence[SplitName], split: Split, remarks: list[str]
) -> list[int]:
    """Return a fold for every image outside the test split, from 0, and -1 for the others.

    The folds are stratified by class, and groups and duplicates are not separated. Where a class
    has fewer images or groups than there are folds, no image has a fold.

    Args:
        items: The images.
        splits: Their splits.
        split: Number of folds and seed.
        remarks: Sentences for people are added.
    """
    folds = [-1] * len(items)
    # ordered by content: the same images in other folders have the same folds
    chosen = sorted(
        (index for index, name in enumerate(splits) if name != "test"),
        key=lambda index: (items[index].digest, items[index].label, items[index].path),
    )
    labels = [items[index].label for index in chosen]
    numbers: dict[int, int] = {}  # of the components, in this order
    groups = [numbers.setdefault(items[index].component, len(numbers)) for index in chosen]
    for label in sorted(set(labels)):
        number = len({group for group, own in zip(groups, labels, strict=True) if own == label})
        if number < split.folds:
            remarks.append(
                f"No folds for cross-validation: {label} has {number} images or groups outside the "
                f"test split, fewer than split.folds={split.folds}."
            )
            return folds
    folder = StratifiedGroupKFold(split.folds, shuffle=True, random_state=split.seed)
    for number, (_, members) in enumerate(folder.split(labels, labels, groups)):
        for member in members:
            folds[chosen[member]] = number
    return folds


def check_every_class_in_every_split(counts: dict[str, dict[str, int]], classes: list[str]) -> None:
    """Raise an InputError if a split lacks a class, which could then not be measured."""
    missing = [f"{name}/{c}" for name in SPLITS for c in classes if c not in counts.get(name, {})]
    if missing:
        raise InputError(
            f"No image is left for {', '.join(missing)}. Every split needs images of every class: "
            f"add images (of other groups, if the dataset has groups), or leave the class out with "
            f"dataset.classes."
        )


def _position(key: str, name: str, seed: int) -> float:
    """Return a number from 0 to below 1 that depends on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed} {name} {key}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _limits(number: int, fraction: float) -> tuple[int, int]:
    """Return the smallest and largest number of a class's images that a split may have."""
    wanted = fraction * number
    low = max(1, math.ceil(wanted * (1 - TOLERANCE)))
    return low, max(low, math.floor(wanted * (1 + TOLERANCE)))


def _improves(
    counts: Counter[str], change: Counter[str], sign: int, limits: dict[str, tuple[int, int]]
) -> bool:
    """Return whether a change brings the classes closer to their limits, all in all."""

    def excess(label: str, number: int) -> int:
        low, high = limits[label]
        return max(low - number, number - high, 0)

    before = sum(excess(label, counts[label]) for label in change)
    after = sum(excess(label, counts[label] + sign * number) for label, number in change.items())
    return after < before


def _bundles(items: Sequence[Item], splits: Sequence[SplitName]) -> list[Bundle]:
    """Return the bundles of the training images."""
    members: dict[int, list[int]] = {}
    for index, (item, split) in enumerate(zip(items, splits, strict=True)):
        if split == "train":
            members.setdefault(item.component, []).append(index)
    bundles = []
    for indices in members.values():
        group = min((items[i].group for i in indices if items[i].group), default="")
        digest = min(items[i].digest for i in indices)
        name = f"the group {group}" if group else f"{items[indices[0]].path} with its duplicates"
        bundle = Bundle(f"group {group}" if group else digest, name, indices)
        bundle.counts.update(items[index].label for index in indices)
        bundles.append(bundle)
    return bundles
