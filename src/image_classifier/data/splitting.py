"""Assigns images to splits at random: stratified by class, and groups are never separated."""

import re
from collections import Counter
from collections.abc import Sequence

from sklearn.model_selection import train_test_split

from image_classifier.config.schema import Split
from image_classifier.data.folders import SPLITS, SplitName
from image_classifier.errors import InputError


def first_match(pattern: str | None, text: str) -> str:
    """Return what the first group of a pattern matches (without groups, the whole), or empty."""
    match = re.search(pattern, text) if pattern else None
    return (match[1] if match.re.groups else match[0]) or "" if match else ""


def assign(
    labels: Sequence[str],
    given: Sequence[SplitName | None],
    component_ids: Sequence[int],
    split: Split,
) -> list[SplitName]:
    """Return the split of every image: the dataset's own, or a random one.

    Args:
        labels: The class of each image.
        given: The dataset's own split of each image, or None.
        component_ids: A number for each image; images with the same number stay together.
        split: Fractions and seed.

    Raises:
        InputError: a class has too few images for every split.
    """
    splits: list[SplitName] = [name or "train" for name in given]
    if None in given:
        _draw(splits, labels, component_ids, "test", split.test_fraction, split.seed)
    if "validation" not in given:
        _draw(splits, labels, component_ids, "validation", split.validation_fraction, split.seed)
    return splits


def check_every_class_in_every_split(counts: dict[str, dict[str, int]], classes: list[str]) -> None:
    """Raise an InputError if a split lacks a class, which could then not be measured."""
    missing = [f"{name}/{c}" for name in SPLITS for c in classes if c not in counts.get(name, {})]
    if missing:
        raise InputError(
            f"No readable image for {', '.join(missing)}. Every split needs images of every class: "
            f"add images, or increase split.validation_fraction or split.test_fraction."
        )


def _draw(
    splits: list[SplitName],
    labels: Sequence[str],
    component_ids: Sequence[int],
    name: SplitName,
    fraction: float,
    seed: int,
) -> None:
    """Move a stratified fraction of the training images to the split `name`, in place."""
    members: dict[int, list[int]] = {}
    for index, (split, component) in enumerate(zip(splits, component_ids, strict=True)):
        if split == "train":
            members.setdefault(component, []).append(index)
    try:
        _, drawn = train_test_split(
            list(members),
            test_size=fraction,
            random_state=seed,
            stratify=[labels[indices[0]] for indices in members.values()],
        )
    except ValueError as error:
        training = Counter(
            label for label, split in zip(labels, splits, strict=True) if split == "train"
        )
        counts = ", ".join(f"{number} {label}" for label, number in training.items())
        raise InputError(
            f"There are too few images to draw a {name} split of {fraction:.0%} from the training "
            f"images ({counts}). Add images to the smallest class, or change "
            f"split.{name}_fraction. ({error})"
        ) from None
    for component in drawn:
        for index in members[component]:
            splits[index] = name
