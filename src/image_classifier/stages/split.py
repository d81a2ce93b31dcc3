"""split: assigns every image to training, validation or test.

Reads build/raw. Writes build/split: the manifest with one row for each image, the classes in their
order, the skipped files with reasons, and the duplicates. A dataset with train/ and test/ keeps
them; validation is taken from training unless the dataset has it. Duplicates of an image, and
images of one patient or group, are never in two splits.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config
from image_classifier.data.folders import (
    SPLITS,
    FoundImage,
    SplitName,
    find_images,
    order_classes,
)
from image_classifier.data.images import UnreadableImage
from image_classifier.data.leaks import (
    ScannedImage,
    find_leaks,
    leaks_message,
    refuse_contradictions,
    write_pairs,
)
from image_classifier.data.manifest import ImageRow, count_images, write_manifest
from image_classifier.data.near_duplicates import component_ids, find_pairs, fingerprint
from image_classifier.data.splitting import assign, check_every_class_in_every_split, first_match
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import whole_file, with_filename
from image_classifier.project.records import write_record

PARAMS = ["dataset.positive_class", "dataset.group_pattern", "dataset.source_pattern", "split"]


def split(config: Config) -> None:
    """Write the manifest.

    Raises:
        InputError: the positive class is not one of the classes, an image is in two classes, a
            class has too few images, more than `split.maximum_unreadable` of the files cannot be
            read, or images leak and `split.leaks` is `stop`.
        OSError: a file cannot be read or written.
    """
    found, _ = find_images(paths.RAW)
    classes = order_classes({image.label for image in found}, config.dataset.positive_class)
    images, skipped = scan(found, config.dataset.group_pattern)
    check_readable(skipped, len(found), config.split.maximum_unreadable)

    pairs = find_pairs(
        [image.fingerprint.sha256 for image in images],
        [image.fingerprint.perceptual_hash for image in images],
        [image.group for image in images],
        config.split.duplicate_distance,
    )
    refuse_contradictions(images, pairs)
    components = component_ids(pairs, len(images)).tolist()
    leaking = find_leaks(images, pairs, components)
    with whole_file(paths.DUPLICATES) as partial:
        write_pairs(images, pairs, leaking, partial)
    if leaking and config.split.leaks == "stop":
        raise InputError(leaks_message(images, leaking, "stop"))
    skipped += [(images[index].path, reason) for index, reason in leaking.items()]

    kept = [index for index in range(len(images)) if index not in leaking]
    splits = assign(
        [images[index].found.label for index in kept],
        [images[index].found.split for index in kept],
        [components[index] for index in kept],
        config.split,
    )
    rows = [
        manifest_row(images[index], name, config.dataset.source_pattern)
        for index, name in zip(kept, splits, strict=True)
    ]
    counts = count_images(rows)
    check_every_class_in_every_split(counts, classes)

    kinds = Counter(pair.kind for pair in pairs)
    # neither file replaces the former one before all are written
    with whole_file(paths.MANIFEST) as manifest, whole_file(paths.SKIPPED) as list_of_skipped:
        with with_filename(paths.MANIFEST):
            write_manifest(rows, manifest)
        with list_of_skipped.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *skipped])
        write_record(
            paths.SPLIT,
            selected(config, PARAMS),
            classes=classes,
            counts=counts,
            skipped=len(skipped),
            duplicates={
                "exact_pairs": kinds["exact duplicate"],
                "near_pairs": kinds["near duplicate"],
                "groups": len({image.group for image in images if image.group}),
                "leaking_dropped": {images[index].path: text for index, text in leaking.items()},
            },
        )
    print_counts(counts, classes, kinds)
    if leaking:
        print(leaks_message(images, leaking, "drop"))
    if skipped:
        print(f"{len(skipped)} files skipped, see {paths.SKIPPED}, e.g. {': '.join(skipped[0])}")


def scan(
    found: Sequence[FoundImage], group_pattern: str | None
) -> tuple[list[ScannedImage], list[tuple[str, str]]]:
    """Read every image; return the readable ones, and path and reason of the others.

    Raises:
        OSError: a file cannot be read, for another reason than its content.
    """
    images: list[ScannedImage] = []
    skipped: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(fingerprint, [image.path for image in found])
        for image, result in tqdm(
            zip(found, results, strict=True), "Inspecting", len(found), disable=None
        ):
            path = image.path.relative_to(paths.RAW).as_posix()
            if isinstance(result, UnreadableImage):
                skipped.append((path, str(result)))
            else:
                group = first_match(group_pattern, image.path.name)
                images.append(ScannedImage(image, path, group, result))
    return images, skipped


def check_readable(skipped: Sequence[tuple[str, str]], found: int, maximum: float) -> None:
    """Raise an InputError if a larger share of the files than `maximum` is unreadable."""
    if len(skipped) > maximum * found:
        lines = [f"{path}: {reason}" for path, reason in skipped[:10]]
        more = f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        raise InputError(
            f"{len(skipped)} of {found} files cannot be read, more than "
            f"split.maximum_unreadable={maximum:g} allows:\n  "
            + "\n  ".join(lines)
            + f"{more}\nRepair or remove them and run `dvc repro` again, or increase the setting."
        )


def manifest_row(image: ScannedImage, name: SplitName, source_pattern: str | None) -> ImageRow:
    """Return the manifest's row of an image."""
    file = image.fingerprint
    return ImageRow(
        path=image.path,
        label=image.found.label,
        split=name,
        sha256=file.sha256,
        perceptual_hash=file.perceptual_hash,
        group=image.group,
        source=first_match(source_pattern, image.path),
        format=file.facts.format,
        mode=file.facts.mode,
        width=file.facts.width,
        height=file.facts.height,
        bytes=file.size,
    )


def print_counts(
    counts: dict[str, dict[str, int]], classes: list[str], kinds: Counter[str]
) -> None:
    """Print the number of images in each split, the classes, and the number of duplicates."""
    for name in SPLITS:
        print(f"{name}: " + ", ".join(f"{n} {label}" for label, n in counts[name].items()))
    print("classes: " + ", ".join(f"{label}={i}" for i, label in enumerate(classes)))
    print(
        f"duplicates: {kinds['exact duplicate']} exact pairs, {kinds['near duplicate']} near pairs"
    )
