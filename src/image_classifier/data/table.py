"""Reads the classes and splits of images from a table: a CSV or TSV file beside the images."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from image_classifier.config.schema import ImageSource
from image_classifier.data.folders import MASK, NO_LABEL, NO_ROW, NO_SPLIT, Listing
from image_classifier.data.labels import LabelledImage, Labels, SplitName, UnusedFile
from image_classifier.data.layout import labels_from_folders, split_of
from image_classifier.errors import InputError
from image_classifier.project.text import is_printable

ENDINGS = (".csv", ".tsv")
# names of columns in common use, for a guess
LABEL_NAMES = (
    "label", "labels", "class", "class_name", "classname", "category", "target", "diagnosis", "dx",
    "finding labels", "species", "breed", "label_name",
)  # fmt: skip
SPLIT_NAMES = (
    "split", "set", "subset", "partition", "fold", "dataset", "phase", "is_train", "is_training",
    "is_training_image", "is_test",
)  # fmt: skip
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
GROUP_NAMES = (
    "group", "patient", "patient_id", "patientid", "patient id", "subject", "subject_id",
    "lesion_id", "case", "case_id", "person", "person_id", "animal_id", "video", "video_id",
    "sequence", "location",
)  # fmt: skip
SOURCE_NAMES = (
    "source", "site", "hospital", "institution", "center", "centre", "camera", "scanner",
)  # fmt: skip
MISSING = {"", "nan", "na", "n/a", "#n/a"}  # how programs write that a value is missing


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are used; None where the table has no such column."""

    path: str
    label: str | tuple[str, ...] | None = None
    split: str | None = None
    group: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Table:
    """A table's header and rows, as text; `name` is its path in the dataset."""

    name: str
    header: list[str]
    rows: list[dict[str, str]]


def labels_from_table(folder: Path, listing: Listing, source: ImageSource) -> Labels:
    """Return the class of every image that has a row in `source.table`, and all that is not used.

    Rows without a file, rows that repeat another one, and images without a row are counted. An
    image with two different labels is in the result twice: `split` treats it as a contradiction.
    A file that the table names is not a mask, whatever its name is. Of several tables without a
    column of splits, the names say which split each is for.

    Args:
        folder: The dataset's folder.
        listing: Its files.
        source: The settings of the table and its columns.

    Raises:
        InputError: a table cannot be read, lacks a column, or none of its rows names an image.
    """
    names = [source.table] if isinstance(source.table, str) else list(source.table or ())
    images = named_files(listing)
    labels, with_row = Labels(), set[str]()
    folders: dict[str, LabelledImage] = {}
    if source.label_column is None:
        from_folders = labels_from_folders(listing, source.classes)
        folders = {image.path: image for image in from_folders.images}
        labels.notes += from_folders.notes
    for name in names:
        table = read_table(folder, name)
        split = split_of_table(name) if len(names) > 1 else None
        with_row |= _add_rows(table, chosen_columns(table, source), images, folders, split, labels)
    known_files = with_row | set(names)
    labels.unused += [item for item in listing.unused if item.path not in known_files]
    labels.unused += [UnusedFile(path, NO_ROW) for path in listing.images if path not in with_row]
    labels.images.sort(key=lambda image: (image.path, image.label))
    found = {image.label for image in labels.images}
    several = [image.label for image in labels.images if is_combination(image.label, found)]
    if several:
        labels.notes.append(
            f"{len(several)} rows of {', '.join(names)} have several labels, e.g. {several[0]}: "
            f"each combination is a class of its own. dataset.classes can leave them out."
        )
    return labels


def _add_rows(
    table: Table,
    columns: Columns,
    images: Sequence[str],
    folders: Mapping[str, LabelledImage],
    split: SplitName | None,
    labels: Labels,
) -> set[str]:
    """Add the images of a table to `labels`; return the paths that have a row.

    Args:
        table: The table.
        columns: Its columns that are used.
        images: Paths of the files that the table may name.
        folders: What the folders say of each path, for a table without a column of labels.
        split: The split of all rows, if the table's name says it.
        labels: Images, files that are not used, and notes are added.
    """
    finder = Finder(images, str(PurePosixPath(table.name).parent))
    check_header(table, finder)
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    seen: set[tuple[str, str, str]] = set()
    with_row: set[str] = set()
    for row in table.rows:
        name = row[columns.path].strip()
        found = finder.find(name, split)
        if len(found) != 1:
            problem = "rows name no image" if not found else "rows name several images"
            counts[problem] += 1
            examples.setdefault(problem, name)
            continue
        path = found[0]
        with_row.add(path)
        said = folders.get(path, LabelledImage(path, ""))
        label = label_of(row, columns.label, table.name) if columns.label else said.label
        if label.lower() in MISSING:
            labels.unused.append(UnusedFile(path, NO_LABEL))
            continue
        split_of_row = split_in(row, columns.split) if columns.split else split
        if columns.split and split_of_row is None:
            labels.unused.append(UnusedFile(path, NO_SPLIT, row[columns.split].strip()))
            continue
        image = LabelledImage(
            path,
            label,
            split_of_row or said.split,
            known(row[columns.group]) if columns.group else "",
            known(row[columns.source]) if columns.source else said.source,
        )
        if (path, label, image.split) in seen:
            counts["rows repeat another row"] += 1
            examples.setdefault("rows repeat another row", name)
            continue
        seen.add((path, label, image.split))
        labels.images.append(image)
    if not with_row:
        raise InputError(no_match_message(table, columns, images))
    if not seen and columns.split:
        values = sorted({row[columns.split].strip() for row in table.rows})[:5]
        raise InputError(
            f"{table.name}: the column {columns.split} has the values "
            f"{', '.join(map(repr, values))}; use train, validation and test, or set "
            f"dataset.split_column=null to have the splits chosen at random."
        )
    details = [f"{number} {what} (e.g. {examples[what]})" for what, number in counts.items()]
    labels.notes.append(
        f"{table.name}: {len(table.rows)} rows" + "".join(f", {text}" for text in details) + "."
    )
    return with_row


def check_header(table: Table, finder: "Finder") -> None:
    """Raise an InputError if the first line of a table names an image, so is not a header."""
    for name in table.header:
        if finder.find(name):
            raise InputError(
                f"{table.name}: the first line names the image {name}, so the table has no header. "
                f"Add a first line with the names of the columns, such as path,label."
            )


def split_of_table(name: str) -> SplitName | None:
    """Return the split that a table's name or folder stands for, or None.

    `train.csv` and `train/_classes.csv` are such names.
    """
    path = PurePosixPath(name)
    return split_of(path.stem) or split_of(path.parent.name)


def is_combination(label: str, labels: Collection[str]) -> bool:
    """Return whether a label consists of several of the labels, or has a bar between its parts."""
    parts = [part for part in re.split(r"[\s,;+&|/]+", label) if part]
    return "|" in label or (len(parts) > 1 and all(part in labels for part in parts))


def named_files(listing: Listing) -> list[str]:
    """Return the files that a table may name: the images, and what looks like masks."""
    return [*listing.images, *(item.path for item in listing.unused if item.kind == MASK)]


def read_table(folder: Path, name: str) -> Table:
    """Read a table.

    Args:
        folder: The dataset's folder.
        name: Path of the table, relative to `folder`; the ending .tsv means tabs.

    Raises:
        InputError: the file does not exist, is not UTF-8, or a row has the wrong number of values.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        tables = find_tables(folder)
        found = f" The folder has {', '.join(tables)}." if tables else ""
        raise InputError(
            f"dataset.table={name}: no such file in {folder}. Give its path relative to this "
            f"folder.{found}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not in UTF-8: save it as CSV in UTF-8.") from None
    if text.lower().startswith("sep="):  # Excel's line for the separator
        text = text.partition("\n")[2]
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table ({error}).") from None
    header = [column.strip() for column in rows[0]] if rows else []
    while header and not header[-1]:  # empty columns at the end, as spreadsheets write them
        header.pop()
    rows = [row[: len(header)] if not any(row[len(header) :]) else row for row in rows]
    if len(header) < 2 or len(set(header)) < len(header):
        raise InputError(f"{path}: the first line must have two or more different column names.")
    result = []
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(header):
            raise InputError(
                f"{path}: row {number} has {len(row)} values, the header has {len(header)} columns."
            )
        result.append(dict(zip(header, row, strict=True)))
    return Table(name, header, result)


def find_tables(folder: Path) -> list[str]:
    """Return the CSV and TSV files in a folder and its subfolders, two levels deep, sorted."""
    found = [
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
    ]
    return sorted(found)


def chosen_columns(table: Table, source: ImageSource) -> Columns:
    """Return the columns that the settings name; split, group and source only where present.

    Raises:
        InputError: the table lacks a column that the settings name.
    """
    label = source.label_column
    labels = label if isinstance(label, list) else [] if label is None else [label]
    needed = {"path_column": [source.path_column], "label_column": labels}
    for setting, names in needed.items():
        if missing := [name for name in names if name not in table.header]:
            raise InputError(
                f"{table.name} has no column {', '.join(missing)}. It has "
                f"{', '.join(table.header)}: set dataset.{setting} to one of them."
            )
    optional: dict[str, str | None] = {}
    for kind in ("split", "group", "source"):
        name = getattr(source, f"{kind}_column")
        if name is not None and name not in table.header:
            if name != kind:  # not the default
                raise InputError(
                    f"{table.name} has no column {name}. It has {', '.join(table.header)}: set "
                    f"dataset.{kind}_column to one of them, or to null if there is none."
                )
            name = None
        optional[kind] = name
    return Columns(
        source.path_column, tuple(label) if isinstance(label, list) else label, **optional
    )


def has_label_name(columns: Columns) -> bool:
    """Return whether the column of labels has a usual name."""
    return isinstance(columns.label, str) and columns.label.lower() in LABEL_NAMES


def guess_columns(table: Table, images: Sequence[str]) -> Columns | None:
    """Return the columns of a table that look like paths, labels and so on; None without paths.

    The column of paths is the one whose values name the most images. The column of labels has a
    usual name, or is the only other one with few different values; or several columns of 0 and 1
    are one column for each class.

    Raises:
        InputError: the table has no header.
    """
    finder = Finder(images, str(PurePosixPath(table.name).parent))
    check_header(table, finder)
    sample = table.rows[:: max(1, len(table.rows) // 200)][:200]
    hits = {
        column: sum(len(finder.find(row[column].strip())) == 1 for row in sample)
        for column in table.header
    }
    path = max(table.header, key=lambda column: hits[column])
    if not sample or hits[path] < len(sample) / 2:
        return None
    others = [column for column in table.header if column != path]
    values = {column: {row[column].strip() for row in table.rows} for column in others}

    def named(names: Sequence[str]) -> str | None:
        return next((c for name in names for c in others if c.lower() == name), None)

    split = named(SPLIT_NAMES)
    if split:
        found = [split_in(row, split) for row in table.rows]
        # other values, such as `unused`, leave images out: only if they are few
        if "train" not in found or 2 * found.count(None) > len(found):
            split = None
    group, source = named(GROUP_NAMES), named(SOURCE_NAMES)
    label: str | tuple[str, ...] | None = named(LABEL_NAMES)
    if label is None:
        binary = [c for c in others if values[c] <= {"0", "1", "0.0", "1.0"} and len(values[c]) > 1]
        if len(binary) >= 2:
            label = tuple(binary)
        else:
            few = [
                c
                for c in others
                if c not in (split, group, source)
                and 2 <= len(values[c]) <= max(2, len(table.rows) // 5)
            ]
            label = few[0] if len(few) == 1 else None
    return Columns(path, label, split, group, source)


def known(value: str) -> str:
    """Return a value without spaces around it; empty when it says that it is missing."""
    return "" if value.strip().lower() in MISSING else value.strip()


def label_of(row: dict[str, str], column: str | tuple[str, ...], table: str) -> str:
    """Return the label of a row; with one column for each class, the one that is 1.

    Raises:
        InputError: a label is not printable, or several of the columns are 1.
    """
    if isinstance(column, str):
        label = row[column].strip()
        if not is_printable(label):
            raise InputError(f"{table}: the label {label!r} contains control characters.")
        return label
    chosen = [name for name in column if row[name].strip() in ("1", "1.0", "true", "True")]
    if len(chosen) > 1:
        raise InputError(
            f"{table}: a row has the labels {' and '.join(chosen)}; each image must have one."
        )
    return chosen[0] if chosen else ""


def split_in(row: dict[str, str], column: str) -> SplitName | None:
    """Return the split of a row, or None if the value stands for none.

    In a column such as `is_train`, 1 stands for the split of the name and 0 for the other one.
    """
    value = row[column].strip()
    own = split_of(column)
    if own and value.lower() in YES | NO:
        other: SplitName = "test" if own == "train" else "train"
        return own if value.lower() in YES else other
    return split_of(value)


def no_match_message(table: Table, columns: Columns, images: Sequence[str]) -> str:
    """Return the message for a table none of whose rows names an image."""
    example = table.rows[0][columns.path] if table.rows else "nothing"
    return (
        f"No row of {table.name} names an image: the column {columns.path} has {example}, the "
        f"images have paths such as {images[0] if images else 'none'}. Set dataset.path_column to "
        f"the right column."
    )


class Finder:
    """Finds the image that a table's text names: by path, name, or either without its ending."""

    def __init__(self, images: Sequence[str], table_folder: str) -> None:
        """Index the images.

        Args:
            images: Paths relative to the dataset's folder.
            table_folder: The folder of the table, to which its paths may be relative.
        """
        self.folder = "" if table_folder == "." else f"{table_folder}/"
        self.by_path: dict[str, list[str]] = {}
        self.by_name: dict[str, list[str]] = {}
        for image in images:
            pure = PurePosixPath(image)
            self.by_path.setdefault(image, []).append(image)
            self.by_name.setdefault(pure.name, []).append(image)
            if pure.suffix:
                self.by_path.setdefault(str(pure.with_suffix("")), []).append(image)
                self.by_name.setdefault(pure.stem, []).append(image)

    def find(self, text: str, split: SplitName | None = None) -> list[str]:
        """Return the images that a text may mean; one, if it is clear.

        Args:
            text: The value of the column of paths.
            split: The split of the table: of several images with one name, those in a folder of
                this split are meant.
        """
        path = text.replace("\\", "/").removeprefix("./")
        for candidate in (path, self.folder + path):
            if found := self.by_path.get(candidate):
                return found
        name = path.rsplit("/", 1)[-1]
        found = self.by_name.get(name) or self.by_name.get(name.rsplit(".", 1)[0]) or []
        if len(found) > 1 and "/" in path:
            # several folders have a file of this name: the longest common end of the paths decides
            ends = [_common_end(image, path) for image in found]
            found = [image for image, n in zip(found, ends, strict=True) if n == max(ends)]
        if len(found) > 1 and split:
            found = [
                image for image in found if split in map(split_of, PurePosixPath(image).parts[:-1])
            ]
        own = _split_of_folder(path)
        # train/1.png is not test/1.png, although no other file has this name
        if own and any(_split_of_folder(image) not in (None, own) for image in found):
            return []
        return found


def _split_of_folder(path: str) -> SplitName | None:
    return split_of(PurePosixPath(path).parent.name)


def _common_end(first: str, second: str) -> int:
    count = 0
    for a, b in zip(reversed(first.split("/")), reversed(second.split("/")), strict=False):
        if a.rsplit(".", 1)[0] != b.rsplit(".", 1)[0]:
            break
        count += 1
    return count
