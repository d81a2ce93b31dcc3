"""split: assigns every image to training, validation or test.

Reads build/raw and build/labels.csv. Writes build/split: the manifest with one row for each image,
the classes in their order, the skipped files with reasons, the duplicates and the contradictions,
and the findings: what is worth a look. Labels are corrected first, as corrections.csv says.
The splits that a dataset has are kept; the others are taken from training. Duplicates of an image,
and images of one patient or group, are never in two splits.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import PurePosixPath

from tqdm import tqdm

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config, Dataset
from image_classifier.data.corrections import apply_corrections
from image_classifier.data.dicom import identifying_tags
from image_classifier.data.findings import (
    count_findings,
    find,
    summarize_findings,
    write_findings,
)
from image_classifier.data.images import Pixels, decode
from image_classifier.data.labels import (
    SPLITS,
    LabelledImage,
    SplitName,
    order_classes,
    read_labels,
)
from image_classifier.data.leaks import (
    ScannedImage,
    contradictions_message,
    find_contradictions,
    find_leaks,
    leaks_message,
    write_contradictions,
    write_pairs,
)
from image_classifier.data.manifest import ImageRow, count_images, write_manifest
from image_classifier.data.near_duplicates import (
    CLOSE_VIEW,
    component_ids,
    find_pairs,
    fingerprint,
)
from image_classifier.data.splitting import (
    Item,
    assign,
    assign_folds,
    check_every_class_in_every_split,
    first_match,
)
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.evaluation.power import (
    ASSUMPTION,
    describe_power,
    independent_images,
    smallest_differences,
)
from image_classifier.project import paths
from image_classifier.project.files import whole_file, with_filename
from image_classifier.project.records import write_record

UNEQUAL = 10  # a class with so many times the images of another

PARAMS = [
    "dataset.positive_class",
    "dataset.group_pattern",
    "dataset.source_pattern",
    "dataset.corrections",
    "split",
]


def split(config: Config) -> None:
    """Write the manifest.

    Raises:
        InputError: corrections.csv has problems, the positive class is not one of the classes, an
            image is in two classes and
            `split.contradictions` is `stop`, a pattern matches no path, a class has too few
            images, more than `split.maximum_unreadable` of the files cannot be read, or images
            leak and `split.leaks` is `stop`.
        OSError: a file cannot be read or written.
    """
    name = config.dataset.corrections
    found, corrections = apply_corrections(
        read_labels(paths.LABELS, "fetch"),
        name,
        paths.located("dataset.corrections", name, "file"),
    )
    classes = order_classes({image.label for image in found}, config.dataset.positive_class)
    remarks = check_patterns(found, config.dataset)
    images, skipped = scan(found, config.dataset)
    check_readable(skipped, len(found), config.split.maximum_unreadable)
    remarks += remark_on_masks(images) + remark_on_dicom(images) + remark_on_sizes(images)

    close_view = lru_cache(maxsize=1000)(partial(view_closely, images))
    pairs, scenes = find_pairs(
        [image.fingerprint.sha256 for image in images],
        [image.fingerprint.perceptual_hash for image in images],
        [image.group for image in images],
        config.split.duplicate_distance,
        close_view,
    )
    contradicting, in_one_place = find_contradictions(images, pairs, close_view)
    remarks += remark_on_scenes(images, scenes, in_one_place)
    with whole_file(paths.CONTRADICTIONS) as listed:
        write_contradictions(images, contradicting, listed)
    if contradicting and config.split.contradictions == "stop":
        raise InputError(contradictions_message(images, contradicting, "stop"))

    components = component_ids(pairs, len(images)).tolist()
    certain = [index for index in range(len(images)) if index not in contradicting]
    leaking = find_leaks(images, pairs, components, certain)
    with whole_file(paths.DUPLICATES) as listed:
        write_pairs(images, pairs, leaking, listed)
    if leaking and config.split.leaks == "stop":
        raise InputError(leaks_message(images, leaking, "stop"))
    skipped += [(images[i].path, reason) for i, reason in (contradicting | leaking).items()]
    skipped += corrections.skipped()

    kept = [index for index in certain if index not in leaking]
    items = [
        Item(
            images[index].found.label,
            images[index].found.split,
            images[index].group,
            images[index].fingerprint.sha256,
            images[index].path,
            components[index],
        )
        for index in kept
    ]
    given = {image.split for image in found if image.split}
    splits, of_shares = assign(items, config.split, given)
    folds = assign_folds(items, splits, config.split, of_shares)
    rows = [
        manifest_row(images[index], name, fold)
        for index, name, fold in zip(kept, splits, folds, strict=True)
    ]
    # by class and name: the same images in other folders have the same order
    rows.sort(key=lambda row: (row.label, PurePosixPath(row.path).name, row.path))
    counts = count_images(rows)
    # before the check, which may fail because of them
    if contradicting:
        print(contradictions_message(images, contradicting, "drop"))
    if leaking:
        print(leaks_message(images, leaking, "drop"))
    split_of = {row.path: row.split for row in rows}
    remarks += of_shares + corrections.remarks(split_of)
    for remark in remarks:
        print(remark)
    check_every_class_in_every_split(counts, classes)

    findings = find(images, dict(zip(kept, splits, strict=True)), pairs)
    test = [row for row in rows if row.split == "test"]
    independent, differences = independent_images(test), smallest_differences(test, classes)
    kinds = Counter(pair.kind for pair in pairs)
    # no file replaces the former one before all are written
    with (
        whole_file(paths.MANIFEST) as manifest,
        whole_file(paths.SKIPPED) as list_of_skipped,
        whole_file(paths.FINDINGS) as listed,
    ):
        with with_filename(paths.MANIFEST):
            write_manifest(rows, manifest)
        write_findings(findings, listed)
        with list_of_skipped.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *skipped])
        write_record(
            paths.SPLIT,
            selected(config, PARAMS),
            classes=classes,
            counts=counts,
            skipped=len(skipped),
            remarks=remarks,
            duplicates={
                "exact_pairs": kinds["exact duplicate"],
                "near_pairs": kinds["near duplicate"],
                "groups": len({image.group for image in images if image.group}),
                "contradictions_dropped": {
                    images[i].path: text for i, text in contradicting.items()
                },
                "leaking_dropped": {images[index].path: text for index, text in leaking.items()},
            },
            corrections=corrections.record(split_of),
            findings=count_findings(findings),
            power={"independent_test_images": independent, "smallest_differences": differences},
        )
    print_counts(counts, classes, kinds)
    print("\n".join(summarize_findings(findings)))
    print(describe_power(len(test), independent, differences), ASSUMPTION)
    if skipped:
        print(f"{len(skipped)} files skipped, see {paths.SKIPPED}, e.g. {': '.join(skipped[0])}")


def check_patterns(found: Sequence[LabelledImage], dataset: Dataset) -> list[str]:
    """Return remarks on how many images the patterns for groups and sources match.

    Raises:
        InputError: a pattern matches no path, or the table has groups or sources, too.
    """
    remarks = []
    for kind, pattern, given in (
        ("group", dataset.group_pattern, sum(bool(image.group) for image in found)),
        ("source", dataset.source_pattern, sum(bool(image.source) for image in found)),
    ):
        names = [getattr(image, kind) for image in found]
        if pattern and given:
            raise InputError(
                f"The dataset has a {kind} for {given} images already, from its table or folders: "
                f"set dataset.{kind}_pattern=null, or dataset.{kind}_column=null."
            )
        if pattern:
            names = [first_match(pattern, image.path) for image in found]
        with_name = sum(map(bool, names))
        if pattern and not with_name:
            raise InputError(
                f"dataset.{kind}_pattern={pattern} matches none of the paths, which look like "
                f"{found[0].path}. The pattern is searched in the whole path. To match the "
                f"beginning of a name, write (?:^|/)."
            )
        if with_name:
            text = (
                f"{len(set(filter(None, names)))} {kind}s, for {with_name} of {len(found)} images"
            )
            if pattern and with_name < len(found):
                example = next(i.path for i, name in zip(found, names, strict=True) if not name)
                text += f"; dataset.{kind}_pattern does not match e.g. {example}"
            remarks.append(f"{text}.")
    return remarks


def scan(
    found: Sequence[LabelledImage], dataset: Dataset
) -> tuple[list[ScannedImage], list[tuple[str, str]]]:
    """Read every image; return the readable ones, and path and reason of the others.

    Raises:
        OSError: a file cannot be read, for another reason than its content.
    """
    images: list[ScannedImage] = []
    skipped: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(fingerprint, [paths.RAW / image.path for image in found])
        for image, result in tqdm(
            zip(found, results, strict=True), "Inspecting", len(found), disable=None
        ):
            if isinstance(result, UnreadableImage):
                skipped.append((image.path, str(result)))
            else:
                group = image.group or first_match(dataset.group_pattern, image.path)
                source = image.source or first_match(dataset.source_pattern, image.path)
                facts = result.facts
                images.append(
                    ScannedImage(image, group or facts.patient, source or facts.series, result)
                )
    return images, skipped


def view_closely(images: Sequence[ScannedImage], index: int) -> Pixels:
    """Return an image for a closer comparison: uint8 array of shape (CLOSE, CLOSE, 3)."""
    return decode(paths.RAW / images[index].path, CLOSE_VIEW)


def remark_on_masks(images: Sequence[ScannedImage]) -> list[str]:
    """Return a remark if a part of the images looks like masks."""
    two_valued = [image.path for image in images if image.fingerprint.two_valued]
    if not 0 < len(two_valued) < len(images):
        return []
    return [
        f"{len(two_valued)} of {len(images)} images have almost only two values, as masks have, "
        f"e.g. {two_valued[0]}. If they are masks, leave them out with dataset.exclude."
    ]


def remark_on_dicom(images: Sequence[ScannedImage]) -> list[str]:
    """Return remarks on the patients and series of DICOM files, and on identifying tags."""
    facts = {image.path: image.fingerprint.facts for image in images}
    remarks = []
    patients = {fact.patient for fact in facts.values() if fact.patient}
    if patients and all(image.group in patients for image in images):
        remarks.append(
            f"The DICOM files name {len(patients)} patients, which are the groups: each stays in "
            f"one split. The series are the sources."
        )
    if named := [path for path, fact in facts.items() if fact.identifying]:
        remarks.append(identifying_tags(named[0], len(named)))
    return remarks


def remark_on_sizes(images: Sequence[ScannedImage]) -> list[str]:
    """Return a remark if one class has at least ten times as many images as another."""
    counts = Counter(image.found.label for image in images).most_common()
    (largest, most), (smallest, fewest) = counts[0], counts[-1]
    if most < UNEQUAL * fewest:
        return []
    return [
        f"The classes are unequal: {most} {largest}, {fewest} {smallest}. Accuracy says little "
        f"then: look at balanced_accuracy, and set training.monitor=val_balanced_accuracy."
    ]


def remark_on_scenes(
    images: Sequence[ScannedImage], scenes: Sequence[Sequence[int]], in_one_place: int
) -> list[str]:
    """Return remarks on images that look alike but are not copies."""
    remarks = [
        f"{len(scene)} images have their background in common, such as {images[scene[0]].path}. "
        f"Only images that also agree in the rest count as duplicates. If some belong together, "
        f"such as the frames of one video, set dataset.group_pattern."
        for scene in scenes
    ]
    if in_one_place:
        remarks.append(
            f"In {in_one_place} pairs of similar images, the two images have different classes and "
            f"differ mainly in one place. They count as different images, but each pair stays in "
            f"one split."
        )
    return remarks


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


def manifest_row(image: ScannedImage, name: SplitName, fold: int) -> ImageRow:
    """Return the manifest's row of an image."""
    file = image.fingerprint
    return ImageRow(
        path=image.path,
        label=image.found.label,
        split=name,
        sha256=file.sha256,
        perceptual_hash=file.perceptual_hash,
        group=image.group,
        source=image.source,
        fold=fold,
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
