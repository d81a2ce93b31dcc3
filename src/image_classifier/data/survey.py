"""Looks at a folder of images as a person would, and proposes the settings for it."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from image_classifier.config.schema import ImageSource
from image_classifier.data.depth import is_deep
from image_classifier.data.dicom import identifying_tags
from image_classifier.data.folders import (
    EXCLUDED,
    EXPECTED,
    LINK,
    Listing,
    escaped,
    find_masks,
    list_files,
    looks_like_mask,
)
from image_classifier.data.images import inspect
from image_classifier.data.labels import (
    SPLITS,
    LabelledImage,
    Labels,
    UnusedFile,
    count_labels,
    summarize_unused,
)
from image_classifier.data.layout import (
    IDENTIFIER,
    choose_classes,
    labels_from_folders,
    plain,
    split_of,
)
from image_classifier.data.splitting import first_match
from image_classifier.data.table import (
    SPLIT_NAMES,
    Columns,
    Table,
    find_tables,
    guess_columns,
    has_label_name,
    labels_from_table,
    named_files,
    read_table,
    split_of_table,
)
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project.files import read_bytes

SAMPLE = 300  # images that are opened to look at their sizes
FEWEST = 5  # images that a class needs: some for each split
NEGATIVE = re.compile(
    r"normal|healthy|negative|neg|benign|control|background|empty|none|good|ok|fine|no|not|non"
    r"|without|false|0",
    re.IGNORECASE,
)
# Patterns of file names in which a part names a patient, a video or the like
GROUP_PATTERNS = {
    "versions of one image": r"([^/]+?)\.rf\.[0-9a-f]{8,}",
    "patients, videos or the like": (
        r"(?i)(?:^|[/_ .-])((?:patient|person|subject|case|pat|subj|sub|pt|participant|animal|"
        r"video|vid|clip|seq|sequence|cam|camera|site|slide|lesion|study|plate)[ _-]?\d+)"
    ),
    "numbered series": (
        r"([^/]*\d[^/]*?)[ _-]+(?:frame|img|image|view|slice|crop|tile|patch|aug)?[ _-]*\d+\.\w+$"
    ),
}
FEWEST_GROUPS = 3  # groups with two or more images that a pattern must find
LARGEST_GROUP = 0.4  # the largest share of a class that a guessed group may have


@dataclass
class Survey:
    """What a folder contains, and the settings for it.

    Attributes:
        settings: The settings of the section `dataset` that differ from conf/dataset/base.yaml.
        guesses: For some of the settings, why they are guessed.
        findings: What was found, as lines for people.
        labels: The images that would be used, and what would not.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    guesses: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    labels: Labels = field(default_factory=Labels)


def survey(folder: Path, *, local: bool) -> Survey:
    """Look at a folder of images.

    Args:
        folder: The dataset's folder.
        local: Whether the folder is on this machine; in a downloaded repository no link is
            followed to outside.

    Raises:
        InputError: fewer than two classes were found in folders or in a table.
        OSError: a folder or file cannot be read.
    """
    result = Survey()
    listing = list_files(folder)
    if local and (store := store_of_links(folder, listing)):
        result.settings["links_into"] = store
        result.guesses["links_into"] = "the links of the dataset lead to this folder"
        listing = list_files(folder, links_into=Path(store))
    find_classes(folder, listing, result)
    choose_labels(result)
    complete_splits(result)
    leave_out_the_rest(result)
    guess_groups(result)
    describe(folder, result)
    return result


def store_of_links(folder: Path, listing: Listing) -> str | None:
    """Return the folder that the links to outside lead to, if it is one, or None."""
    outside = [
        (folder / item.path).resolve()
        for item in listing.unused
        if item.kind == LINK and "outside" in item.reason
    ]
    if not outside:
        return None
    common = Path(os.path.commonpath([path.parent for path in outside]))
    return str(common) if len(common.parts) > 2 else None


def find_classes(folder: Path, listing: Listing, result: Survey) -> None:
    """Find the classes in folders or in a table, and say where.

    A table with a column of labels counts more than folders whose names are numbered, such as
    video12. Beside other class folders it may have the groups, splits or sources.

    Raises:
        InputError: fewer than two classes were found.
    """
    problem = ""
    try:
        labels = labels_from_folders(listing)
    except InputError as error:
        labels, problem = Labels(), str(error)
    tables = find_tables(folder)
    problems: list[str] = []
    found = best_table(folder, tables, named_files(listing), problems)
    names = sorted({image.label for image in labels.images})
    if len(names) >= 2:
        numbered = all(map(IDENTIFIER.fullmatch, names))
        if found and numbered and has_label_name(found[1]):
            result.findings.append(
                f"The folders {names[0]}, {names[1]}, … look like numbers, not like classes, so "
                f"the labels are taken from the table."
            )
        else:
            result.findings.append("The folders are the classes.")
            result.labels = labels
            if found:
                add_columns(folder, listing, *found, result)
            if others := [name for name in tables if name not in tables_of(result.settings)]:
                result.findings.append(
                    f"Not used, because the folders have classes: {', '.join(others[:5])}. To use "
                    f"a table, set dataset.table."
                )
            return
    if found is None or found[1].label is None:
        beside = folder.resolve().parent
        for path in find_tables(beside):
            if "/" not in path:
                problem += (
                    f" {path} lies beside this folder: if it has the labels, run "
                    f"`image-classifier dataset {beside}`."
                )
        for item in listing.unused:
            if item.path.lower().endswith((".xlsx", ".xls", ".ods")):
                problem += f" {item.path} is a spreadsheet: save it as CSV in UTF-8."
        problem += "".join(f" {text}" for text in problems)
        raise InputError(
            f"{folder}: fewer than two classes were found. There are {len(listing.images)} images"
            + (f" in the folder {', '.join(names)}" if names else "")
            + (f"; the labels are not clear from {', '.join(tables)}" if tables else "")
            + f". {problem.strip() or hint_of_names(listing.images)}"
        )
    use_table(folder, listing, *found, tables, result)


def tables_of(settings: dict[str, Any]) -> list[str]:
    """Return the tables that the settings name."""
    table = settings.get("table", [])
    return [table] if isinstance(table, str) else table


def add_columns(
    folder: Path, listing: Listing, name: str, columns: Columns, result: Survey
) -> None:
    """Use a table beside class folders, if it has groups, splits or sources."""
    columns = replace(columns, label=None)
    if not (columns.split or columns.group or columns.source):
        return
    before = len(result.labels.images)
    use_table(folder, listing, name, columns, [], result)
    result.guesses["table"] = "the folders are the classes; the table has " + " and ".join(
        f"the {kind}s in {column}"
        for kind in ("split", "group", "source")
        if (column := getattr(columns, kind))
    )
    if lost := before - len(result.labels.images):
        result.findings.append(f"{lost} images have no row in {name}, so they are not used.")


def use_table(
    folder: Path,
    listing: Listing,
    name: str,
    columns: Columns,
    tables: Sequence[str],
    result: Survey,
) -> None:
    """Take the labels from a table, and from the tables of the other splits beside it."""
    table = read_table(folder, name)
    names = [name, *tables_of_other_splits(folder, table, columns, tables)]
    chosen: dict[str, Any] = {
        "table": names[0] if len(names) == 1 else sorted(names),
        "path_column": columns.path,
        "label_column": (
            list(columns.label) if isinstance(columns.label, tuple) else columns.label
        ),
    }
    for kind in ("split", "group", "source"):
        chosen[f"{kind}_column"] = getattr(columns, kind)
    for column in table.header:
        if columns.split is None and column.lower() in SPLIT_NAMES:
            values = sorted({row[column] for row in table.rows})[:5]
            result.findings.append(
                f"The column {column} is not used: splits have the names train, validation and "
                f"test, its values are {', '.join(map(repr, values))}."
            )
    source = ImageSource(path=str(folder), **chosen)
    result.settings |= {
        key: value for key, value in chosen.items() if value != f"{key.removesuffix('_column')}"
    }
    what = "has the labels" if columns.label else "has the groups, splits or sources of the images"
    result.findings.append(
        f"The table {', '.join(names)} {what}. Its columns: {', '.join(table.header)}."
        if len(names) == 1
        else f"The tables {', '.join(sorted(names))} have the labels, one for each split. Their "
        f"columns: {', '.join(table.header)}."
    )
    result.guesses["path_column"] = "this column names images"
    result.guesses["label_column"] = (
        "this column has the labels" if columns.label else "the folders are the classes"
    )
    result.labels = labels_from_table(folder, listing, source)


def tables_of_other_splits(
    folder: Path, table: Table, columns: Columns, tables: Sequence[str]
) -> list[str]:
    """Return the tables with the same columns whose names say that they are for other splits."""
    splits = {split_of_table(table.name)}
    if None in splits or columns.split:
        return []
    found = []
    for name in tables:
        try:
            other = read_table(folder, name)
        except InputError:
            continue
        split = split_of_table(name)
        if split and split not in splits and other.header == table.header:
            splits.add(split)
            found.append(name)
    return found


def hint_of_names(images: Sequence[str]) -> str:
    """Return what to do with images that lie in no class folder."""
    names = Counter(re.match(r"[^\W\d_]*", Path(path).name)[0] for path in images)  # type: ignore[index]
    classes = [f"{name} ({number})" for name, number in names.most_common() if number >= FEWEST]
    if 2 <= len(classes) <= 20 and "" not in names:
        return (
            f"The names begin with {', '.join(classes)}. If these are the classes, put the images "
            f"of each into a folder of its own, or list path and label in a table such as "
            f"labels.csv."
        )
    return (
        "Put the images of each class into a folder of its own, or list path and label of each "
        "image in a table such as labels.csv."
    )


def best_table(
    folder: Path, tables: Sequence[str], images: Sequence[str], problems: list[str]
) -> tuple[str, Columns] | None:
    """Return the table that most likely has the labels, and its columns, or None.

    A column of labels with a usual name counts more than the number of rows. A table for
    predictions, such as sample_submission.csv, has no labels.

    Args:
        folder: The dataset's folder.
        tables: Paths of tables in it.
        images: Paths of images in it.
        problems: Why a table cannot be read is added.
    """
    best: tuple[tuple[bool, bool, bool, int], str, Columns] | None = None
    for name in tables:
        try:
            table = read_table(folder, name)
            columns = guess_columns(table, images)
        except InputError as error:
            problems.append(str(error))
            continue
        if columns is None or "submission" in name.lower():
            continue
        value = (
            has_label_name(columns),
            columns.label is not None,
            split_of_table(name) in (None, "train"),
            len(table.rows),
        )
        if best is None or value > best[0]:
            best = (value, name, columns)
    return (best[1], best[2]) if best else None


def choose_labels(result: Survey) -> None:
    """Merge labels that differ in case only; leave out rare ones, and those training lacks."""
    labels = result.labels
    training_first = sorted(labels.images, key=lambda image: image.split not in ("", "train"))
    counts = Counter(image.label for image in training_first)
    merged: dict[str, str] = {}
    names: dict[str, str] = {}  # the commonest form of each label
    for label, _ in counts.most_common():
        merged[label] = names.setdefault(plain(label), label.strip())
    totals: Counter[str] = Counter()
    for label, number in counts.items():
        totals[merged[label]] += number
    rare = {label for label in merged if totals[merged[label]] < FEWEST or "|" in label}
    if len({name for label, name in merged.items() if label not in rare}) < 2:
        rare = set()
    learnt = {merged[image.label] for image in labels.images if image.split in ("", "train")}
    foreign = {label for label in merged if merged[label] not in learnt} - rare
    classes = {label: name for label, name in sorted(merged.items()) if label not in rare | foreign}
    if classes == {label: label for label in merged}:
        return
    reasons = []
    if any(label != name for label, name in classes.items()):
        reasons.append("labels that differ only in case, spaces or encoding are merged")
    if foreign:
        reasons.append(f"left out, because training has none: {', '.join(sorted(foreign))}")
    if rare:
        reasons.append(
            f"left out, with fewer than {FEWEST} images or several labels at once: "
            f"{', '.join(sorted(rare)[:5])}" + (" and more" if len(rare) > 5 else "")
        )
    result.settings["classes"] = classes
    result.guesses["classes"] = "; ".join(reasons)
    result.labels = choose_classes(labels, classes)


def complete_splits(result: Survey) -> None:
    """Leave out splits that lack a class of training."""
    classes = {image.label for image in result.labels.images}
    for split in ("validation", "test"):
        own = [image for image in result.labels.images if image.split == split]
        missing = classes - {image.label for image in own}
        if not own or not missing:
            continue
        why = (
            f"the dataset's own {split} has no images of {', '.join(sorted(missing)[:5])}: it is "
            f"not used, and a new {split} split is made from training"
        )
        if "table" in result.settings:
            result.settings["split_column"] = None
            result.guesses["split_column"] = (
                f"the table's {split} has no images of {', '.join(sorted(missing)[:5])}, so its "
                f"splits are not used"
            )
            result.labels.images = [replace(image, split="") for image in result.labels.images]
            return
        places = {folder_of_split(image) for image in own}
        result.settings["exclude"] = [f"/{escaped(place)}/" for place in sorted(places)]
        result.guesses["exclude"] = why
        result.labels.images = [i for i in result.labels.images if i.split != split]
        result.labels.unused += [UnusedFile(image.path, EXCLUDED) for image in own]


def folder_of_split(image: LabelledImage) -> str:
    """Return the folder in an image's path that says its split."""
    parts = Path(image.path).parts
    depth = max(i for i, part in enumerate(parts[:-1]) if split_of(part) == image.split)
    return "/".join(parts[: depth + 1])


def leave_out_the_rest(result: Survey) -> None:
    """Exclude images that would not be used, if they are too many to be left out untold."""
    lost = [item for item in result.labels.unused if item.kind in EXPECTED]
    total = len(lost) + len(result.labels.images)
    if len(lost) <= 0.1 * total:
        return
    kinds = {item.kind for item in lost}
    patterns = patterns_of(lost, result.labels.images)
    if None not in patterns and len(patterns) <= 20:
        former = result.settings.get("exclude", [])
        result.settings["exclude"] = sorted({*former, *filter(None, patterns)})
        reasons = [
            result.guesses.get("exclude", ""),
            f"{len(lost)} files: {', '.join(sorted(kinds))}",
        ]
        result.guesses["exclude"] = "; ".join(filter(None, reasons))
        return
    result.settings["maximum_unused"] = math.ceil(100 * len(lost) / total) / 100
    result.guesses["maximum_unused"] = f"{len(lost)} files: {', '.join(sorted(kinds))}"


def patterns_of(lost: Sequence[UnusedFile], images: Sequence[LabelledImage]) -> set[str | None]:
    """Return patterns as in .gitignore that match the lost files and no used one.

    Contains None if a file has no such pattern.
    """
    tops = {image.path.partition("/")[0] for image in images}
    places = {(Path(image.path).parent, Path(image.path).suffix) for image in images}
    patterns: set[str | None] = set()
    for item in lost:
        path = Path(item.path)
        if len(path.parts) > 1 and path.parts[0] not in tops:
            patterns.add(f"/{escaped(path.parts[0])}/")
        elif path.suffix and (path.parent, path.suffix) not in places:
            beside = f"{path.parent.as_posix()}/" if path.parent.parts else ""
            patterns.add(f"/{escaped(beside)}*{escaped(path.suffix)}")
        else:
            patterns.add(None)
    return patterns


def guess_groups(result: Survey) -> None:
    """Propose a pattern for groups, if file names or folders seem to have some."""
    images = result.labels.images
    if any(image.group for image in images):
        return
    patterns = dict(GROUP_PATTERNS)
    depths = Counter(image.path.count("/") for image in images)
    depth, number = depths.most_common(1)[0]
    if depth and number > 0.9 * len(images):
        parents = [Path(image.path).parent.name for image in images]
        if not {image.label for image in images} & set(parents):
            patterns = {"folders": rf"^(?:[^/]+/){{{depth - 1}}}([^/]+)/"} | patterns
    best: tuple[int, str, str, int] | None = None
    for what, pattern in patterns.items():
        names = [first_match(pattern, image.path) for image in images]
        groups = Counter(filter(None, names))
        matched = sum(groups.values())
        of_class: Counter[str] = Counter()
        in_class: Counter[tuple[str, str]] = Counter()
        bundles: dict[str, set[str]] = {}  # of each class: its groups, and images without a group
        places: dict[str, set[str]] = {}  # the splits of each group
        for image, name in zip(images, names, strict=True):
            of_class[image.label] += 1
            bundles.setdefault(image.label, set()).add(name or image.path)
            if name:
                in_class[image.label, name] += 1
                places.setdefault(name, set()).add(image.split)
        repeats = sum(number > 1 for number in groups.values()) >= FEWEST_GROUPS
        enough = min(map(len, bundles.values())) >= FEWEST  # for every split
        small = all(n <= LARGEST_GROUP * of_class[label] for (label, _), n in in_class.items())
        # a series whose numbers start again in every class is not a group
        restarts = what == "numbered series" and 2 * len(in_class) > 3 * len(groups)
        if not (repeats and enough and small):
            if what != "numbered series" and len(groups) > 1 and matched > 0.9 * len(images):
                result.findings.append(
                    f"The paths seem to name {len(groups)} groups ({what}), e.g. {min(groups)}. "
                    f"They are too few or too large to keep each in one split. So images of the "
                    f"same group may be in training and in test, and the test metrics may be too "
                    f"optimistic."
                )
            continue
        if any(len(splits) > 1 for splits in places.values()):
            result.findings.append(
                f"Some names in the paths ({what}) occur in more than one split of the dataset. If "
                f"such a name means the same patient, video or the like in every split, set "
                f"dataset.group_pattern={pattern}. The images with this name then stay in the "
                f"first split that has some (in the order train, validation, test), and are left "
                f"out of the others."
            )
            continue  # a wrong guess would leave out the dataset's own test images
        if not restarts and (best is None or matched > best[0]):
            best = (matched, what, pattern, len(groups))
    if best:
        matched, what, pattern, number = best
        result.settings["group_pattern"] = pattern
        result.guesses["group_pattern"] = (
            f"the paths of {matched} of {len(images)} images name {number} groups ({what}); the "
            f"images of each group stay in one split"
        )


def guess_positive(classes: Sequence[str], counts: Counter[str]) -> tuple[str, str]:
    """Return the positive one of two classes, and why."""
    negative = [
        label for label in classes if any(map(NEGATIVE.fullmatch, re.split(r"[ _.-]+", label)))
    ]
    if len(negative) == 1:
        positive = next(label for label in classes if label != negative[0])
        return positive, f"{negative[0]} sounds like the negative class"
    positive = min(classes, key=lambda label: (counts[label], label))
    return positive, "the names do not show which class is positive, so it is the smaller one"


def describe(folder: Path, result: Survey) -> None:
    """Add what was found to the findings, and the positive one of two classes to the settings."""
    images, labels = result.labels.images, result.labels
    counts = count_labels(images)
    totals: Counter[str] = Counter(image.label for image in images)
    lines = result.findings
    lines += labels.notes
    lines.append(f"{len(images)} images of {len(totals)} classes:")
    for split, classes in counts.items():
        parts = [f"{number} {label}" for label, number in sorted(classes.items())]
        more = f" and {len(parts) - 20} more classes" if len(parts) > 20 else ""
        lines.append(f"  {split}: {', '.join(parts[:20])}{more}")
    if "all" in counts:
        lines.append("The dataset has no splits: validation and test are chosen at random.")
    elif missing := [name for name in ("validation", "test") if name not in counts]:
        lines.append(
            f"There is no {' and no '.join(missing)} split: it will be made from training images."
        )
    (largest, most), (smallest, fewest) = totals.most_common()[0], totals.most_common()[-1]
    if most >= 3 * fewest:
        lines.append(f"The classes are unequal: {most} {largest}, {fewest} {smallest}.")
    if fewest < FEWEST:
        lines.append(
            f"{smallest} has {fewest} images: a class needs {FEWEST} or more, some for each split."
        )
    groups = Counter(image.group for image in images if image.group)
    if groups:
        lines.append(
            f"{len(groups)} groups in the table, for {groups.total()} of {len(images)} images; "
            f"each stays in one split."
        )
        bundles: dict[str, set[str]] = {}
        for image in images:
            bundles.setdefault(image.label, set()).add(image.group or image.path)
        label, names = min(bundles.items(), key=lambda item: len(item[1]))
        if "all" in counts and len(names) < len(SPLITS):
            lines.append(
                f"{label} has {len(names)} groups, but each of the three splits needs one: `split` "
                f"will stop. Add images of other groups."
            )
    else:
        lines.append(f"Groups: {result.guesses.get('group_pattern', 'none found in the paths')}.")
    lines += describe_files(folder, images)
    lines += summarize_unused(labels.unused)
    if len(totals) == 2:
        positive, why = guess_positive(sorted(totals), totals)
        result.settings["positive_class"] = positive
        result.guesses["positive_class"] = why


def describe_files(folder: Path, images: Sequence[LabelledImage]) -> list[str]:
    """Return lines on the sizes, colour modes and formats of a sample of the images."""
    sample = images[:: max(1, len(images) // SAMPLE)][:SAMPLE]
    sizes, modes, formats = [], Counter[str](), Counter[str]()
    broken, flat, identifying = [], [], []
    for image in sample:
        path = folder / image.path
        try:
            facts, _ = inspect(read_bytes(path))
        except UnreadableImage:
            broken.append(image.path)
            continue
        sizes.append((facts.width, facts.height))
        modes[facts.mode] += 1
        formats[facts.format] += 1
        if facts.identifying:
            identifying.append(image.path)
        if looks_like_mask(path):
            flat.append(image.path)
    lines = []
    if sizes:
        small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
        shapes = [f"{number} {name}" for name, number in (formats + modes).most_common()]
        lines.append(
            f"A sample of {len(sample)} images was opened: {', '.join(shapes)}; "
            f"{small[0]} x {small[1]} to {large[0]} x {large[1]} pixels."
        )
        ratios = [max(w / h, h / w) for w, h in sizes]
        if sum(ratio > 3 for ratio in ratios):
            lines.append(
                f"{sum(ratio > 3 for ratio in ratios)} of them are more than three times as long "
                f"as wide: they are squeezed to the shape of the model. To keep their shape, set "
                f"image.fit=pad."
            )
        deep = sum(number for mode, number in modes.items() if is_deep(mode))
        if deep:
            lines.append(
                f"{deep} of them have more than 8 bits per channel: `prepare` finds one scale for "
                f"all. Check in build/prepare/image_grid.png that they look right."
            )
    if identifying:
        lines.append(identifying_tags(identifying[0], len(identifying)))
    if broken:
        lines.append(
            f"{len(broken)} of them cannot be opened, e.g. {broken[0]}. `split` skips such files, "
            f"and stops if their share is larger than split.maximum_unreadable."
        )
    if named := sorted(find_masks([image.path for image in images], lambda _: True)):
        lines.append(
            f"{len(named)} images have names like masks, e.g. {named[0]}. They are used all the "
            f"same, because masks have few colours and these have many."
        )
    if 0 < len(flat) < len(sample):
        lines.append(
            f"{len(flat)} of them have few colours, as masks have, e.g. {flat[0]}. If they are "
            f"masks, leave them out with dataset.exclude."
        )
    return lines
