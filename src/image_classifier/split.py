"""split: deals the images to training, validation and test, one manifest row for each.

Takes build/raw. Gives build/split/manifest.csv, the images that were left out and why, and the
classes in their order. A dataset with train/ and test/ keeps them; validation is taken from
training unless it is given too.
"""

import csv
import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sklearn.model_selection import train_test_split
from tqdm import tqdm

from image_classifier import paths
from image_classifier.command_line import run_stage
from image_classifier.config import Config
from image_classifier.dataset import (
    SPLITS,
    FoundImage,
    ImageRow,
    SplitName,
    count,
    find_images,
    write_manifest,
    write_record,
)
from image_classifier.errors import InputError
from image_classifier.images import ImageFacts, UnreadableImage, inspect

SETTINGS = ["dataset.positive_class", "split"]


def split(config: Config) -> None:
    """Write the manifest.

    Raises:
        InputError: the positive class is not among the classes, or a class has too few images.
    """
    found = find_images(paths.RAW)
    classes = order_classes({image.label for image in found}, config.dataset.positive_class)

    readable: list[tuple[FoundImage, str, ImageFacts]] = []
    left_out: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(examine, [image.path for image in found])
        for image, result in tqdm(
            zip(found, results, strict=True), "Inspecting", len(found), disable=None
        ):
            if isinstance(result, str):
                left_out.append((image.path.relative_to(paths.RAW).as_posix(), result))
            else:
                readable.append((image, *result))

    splits = assign(
        [image.label for image, _, _ in readable],
        [image.split for image, _, _ in readable],
        config,
    )
    rows = [
        ImageRow(
            path=image.path.relative_to(paths.RAW).as_posix(),
            label=image.label,
            split=name,
            sha256=sha256,
            format=facts.format,
            mode=facts.mode,
            width=facts.width,
            height=facts.height,
        )
        for (image, sha256, facts), name in zip(readable, splits, strict=True)
    ]
    counts = count(rows)
    check_every_class_in_every_split(counts, classes)
    write_manifest(rows)
    with paths.LEFT_OUT.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *left_out])
    write_record(
        paths.SPLIT, config, SETTINGS, classes=classes, counts=counts, left_out=len(left_out)
    )
    for name in SPLITS:
        print(f"{name}: " + ", ".join(f"{n} {label}" for label, n in counts[name].items()))
    print("classes: " + ", ".join(f"{label}={i}" for i, label in enumerate(classes)))
    if left_out:
        print(
            f"{len(left_out)} files left out, see {paths.LEFT_OUT}, e.g. {': '.join(left_out[0])}"
        )


def examine(path: Path) -> tuple[str, ImageFacts] | str:
    """Return a file's SHA-256 and image facts, or why it is left out."""
    content = path.read_bytes()
    try:
        return hashlib.sha256(content).hexdigest(), inspect(content)
    except UnreadableImage as error:
        return str(error)


def order_classes(labels: set[str], positive_class: str | None) -> list[str]:
    """Return the classes sorted; of two, the positive one last, so that its index is 1.

    Raises:
        InputError: two classes without a positive one, or a positive class that is not there.
    """
    classes = sorted(labels)
    if positive_class is not None and positive_class not in classes:
        raise InputError(
            f"dataset.positive_class={positive_class} is not among the classes "
            f"{', '.join(classes)}: name one of them (with more than two, null will do)."
        )
    if len(classes) > 2:
        return classes
    if positive_class is None:
        raise InputError(
            f"Two classes, {' and '.join(classes)}: say which one is looked for, e.g. "
            f"dataset.positive_class={classes[0]}."
        )
    return sorted(classes, key=lambda label: label == positive_class)


def assign(labels: list[str], given: list[SplitName | None], config: Config) -> list[SplitName]:
    """Return the split of every image: the given one, or a seeded stratified draw.

    Raises:
        InputError: a class has too few images to be in every split.
    """
    splits: list[SplitName] = [split or "train" for split in given]
    if None in given:
        draw(splits, labels, "test", config.split.test_fraction, config.split.seed)
    if "validation" not in given:
        draw(splits, labels, "validation", config.split.validation_fraction, config.split.seed)
    return splits


def draw(
    splits: list[SplitName], labels: list[str], name: SplitName, fraction: float, seed: int
) -> None:
    """Move a stratified fraction of the training images to the split `name`, in place."""
    training = [i for i, split in enumerate(splits) if split == "train"]
    try:
        _, drawn = train_test_split(
            training,
            test_size=fraction,
            random_state=seed,
            stratify=[labels[i] for i in training],
        )
    except ValueError as error:
        raise InputError(
            f"Too few images to draw a {name} split of {fraction:g} from "
            f"{dict(Counter(labels[i] for i in training))}: {error}"
        ) from None
    for i in drawn:
        splits[i] = name


def check_every_class_in_every_split(counts: dict[str, dict[str, int]], classes: list[str]) -> None:
    """Raise an InputError where a split lacks a class: nothing could be measured on it."""
    missing = [f"{name}/{c}" for name in SPLITS for c in classes if c not in counts.get(name, {})]
    if missing:
        raise InputError(
            f"No readable image for {', '.join(missing)}. Every class needs some in every split: "
            f"add images, or enlarge split.validation_fraction or split.test_fraction."
        )


if __name__ == "__main__":
    run_stage(split)
