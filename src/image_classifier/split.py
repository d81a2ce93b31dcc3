"""split: deals the images to training, validation and test, one manifest row for each.

Takes build/raw. Gives build/split/manifest.csv, the classes in their order, the images that were
left out and why, and the copies that were found. A dataset with train/ and test/ keeps them;
validation is taken from training unless it is given too. Copies of an image, and images of one
patient or group, are never in two splits.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sklearn.model_selection import train_test_split
from tqdm import tqdm

from image_classifier import paths
from image_classifier.command_line import run_stage
from image_classifier.data.copies import components, find_pairs, fingerprint
from image_classifier.data.folders import (
    SPLITS,
    FoundImage,
    SplitName,
    find_images,
    order_classes,
)
from image_classifier.data.images import UnreadableImage
from image_classifier.data.leaks import (
    Examined,
    find_leaks,
    leaks_message,
    refuse_contradictions,
    write_copies,
)
from image_classifier.data.manifest import ImageRow, count, write_manifest
from image_classifier.errors import InputError
from image_classifier.files import naming, whole_file
from image_classifier.records import write_record
from image_classifier.schema import Config

SETTINGS = [
    "dataset.positive_class",
    "dataset.group_pattern",
    "dataset.source_pattern",
    "split",
]


def split(config: Config) -> None:
    """Write the manifest.

    Raises:
        InputError: the positive class is not among the classes, an image is in two classes, a
            class has too few images, more than `split.maximum_left_out` of the files cannot be
            read, or images leak and `split.leaks` is `stop`.
        OSError: a file cannot be read or written, for other reasons than its bytes.
    """
    found, _ = find_images(paths.RAW)
    classes = order_classes({image.label for image in found}, config.dataset.positive_class)
    images, left_out = examine(found, config.dataset.group_pattern)
    refuse_too_many_left_out(left_out, len(found), config.split.maximum_left_out)
    pairs = find_pairs(
        [image.fingerprint.sha256 for image in images],
        [image.fingerprint.perceptual_hash for image in images],
        [image.group for image in images],
        config.split.copy_distance,
    )
    refuse_contradictions(images, pairs)
    together = components(pairs, len(images)).tolist()
    leaking = find_leaks(images, pairs, together)
    write_copies(images, pairs, leaking)
    if leaking and config.split.leaks == "stop":
        raise InputError(leaks_message(images, leaking))
    left_out += [(images[index].path, reason) for index, reason in leaking.items()]

    kept = [index for index in range(len(images)) if index not in leaking]
    splits = assign(
        [images[index].found.label for index in kept],
        [images[index].found.split for index in kept],
        [together[index] for index in kept],
        config,
    )
    rows = [
        manifest_row(images[index], name, config.dataset.source_pattern)
        for index, name in zip(kept, splits, strict=True)
    ]
    counts = count(rows)
    check_every_class_in_every_split(counts, classes)
    kinds = Counter(pair.kind for pair in pairs)
    # neither takes its place before all are written
    with whole_file(paths.MANIFEST) as manifest, whole_file(paths.LEFT_OUT) as list_of_left_out:
        with naming(paths.MANIFEST):
            write_manifest(rows, manifest)
        with list_of_left_out.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *left_out])
        write_record(
            paths.SPLIT,
            config,
            SETTINGS,
            classes=classes,
            counts=counts,
            left_out=len(left_out),
            copies={
                "exact_pairs": kinds["exact copy"],
                "near_pairs": kinds["near copy"],
                "groups": len({image.group for image in images if image.group}),
                "leaking_dropped": {images[index].path: text for index, text in leaking.items()},
            },
        )
    tell(counts, classes, kinds)
    if leaking:
        print(leaks_message(images, leaking))
    if left_out:
        print(
            f"{len(left_out)} files left out, see {paths.LEFT_OUT}, e.g. {': '.join(left_out[0])}"
        )


def examine(
    found: Sequence[FoundImage], group_pattern: str | None
) -> tuple[list[Examined], list[tuple[str, str]]]:
    """Read every image; return those that can be read, and path and reason of the others.

    Raises:
        OSError: a file cannot be read, for other reasons than its bytes.
    """
    images: list[Examined] = []
    left_out: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(fingerprint, [image.path for image in found])
        for image, result in tqdm(
            zip(found, results, strict=True), "Inspecting", len(found), disable=None
        ):
            path = image.path.relative_to(paths.RAW).as_posix()
            if isinstance(result, UnreadableImage):
                left_out.append((path, str(result)))
            else:
                group = first_group(group_pattern, image.path.name)
                images.append(Examined(image, path, group, result))
    return images, left_out


def tell(counts: dict[str, dict[str, int]], classes: list[str], kinds: Counter[str]) -> None:
    """Print how many images each split has, the classes, and the kinds of pairs."""
    for name in SPLITS:
        print(f"{name}: " + ", ".join(f"{n} {label}" for label, n in counts[name].items()))
    print("classes: " + ", ".join(f"{label}={i}" for i, label in enumerate(classes)))
    print(f"copies: {kinds['exact copy']} exact, {kinds['near copy']} near pairs")


def first_group(pattern: str | None, text: str) -> str:
    """Return what the first group of a pattern finds (without groups, the whole), or nothing."""
    match = re.search(pattern, text) if pattern else None
    return (match[1] if match.re.groups else match[0]) or "" if match else ""


def refuse_too_many_left_out(
    left_out: Sequence[tuple[str, str]], found: int, maximum: float
) -> None:
    """Raise an InputError where a larger share of the files than `maximum` cannot be read."""
    if len(left_out) > maximum * found:
        lines = [f"{path}: {reason}" for path, reason in left_out[:10]]
        more = f"\n  and {len(left_out) - 10} more" if len(left_out) > 10 else ""
        raise InputError(
            f"{len(left_out)} of {found} files cannot be read, more than "
            f"split.maximum_left_out={maximum:g} allows:\n  "
            + "\n  ".join(lines)
            + f"{more}\nMend or remove them and fetch again, or allow more."
        )


def manifest_row(image: Examined, name: SplitName, source_pattern: str | None) -> ImageRow:
    """Return the manifest's row of an image."""
    file = image.fingerprint
    return ImageRow(
        path=image.path,
        label=image.found.label,
        split=name,
        sha256=file.sha256,
        perceptual_hash=file.perceptual_hash,
        group=image.group,
        source=first_group(source_pattern, image.path),
        format=file.facts.format,
        mode=file.facts.mode,
        width=file.facts.width,
        height=file.facts.height,
        bytes=file.size,
    )


def assign(
    labels: Sequence[str],
    given: Sequence[SplitName | None],
    together: Sequence[int],
    config: Config,
) -> list[SplitName]:
    """Return the split of every image: the given one, or a seeded stratified draw.

    Args:
        labels: The class of each image.
        given: The dataset's own split of each, or None.
        together: A number for each; those with the same number stay together.
        config: Fractions and seed.

    Raises:
        InputError: a class has too few images to be in every split.
    """
    splits: list[SplitName] = [split or "train" for split in given]
    if None in given:
        draw(splits, labels, together, "test", config.split.test_fraction, config.split.seed)
    if "validation" not in given:
        draw(
            splits, labels, together, "validation",
            config.split.validation_fraction, config.split.seed,
        )  # fmt: skip
    return splits


def draw(
    splits: list[SplitName],
    labels: Sequence[str],
    together: Sequence[int],
    name: SplitName,
    fraction: float,
    seed: int,
) -> None:
    """Move a stratified fraction of the training images to the split `name`, in place."""
    members: dict[int, list[int]] = {}
    for index, (split, component) in enumerate(zip(splits, together, strict=True)):
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
        raise InputError(
            f"Too few images to draw a {name} split of {fraction:g} from {dict(training)}: {error}"
        ) from None
    for component in drawn:
        for index in members[component]:
            splits[index] = name


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
