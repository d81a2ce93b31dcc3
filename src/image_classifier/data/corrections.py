"""Labels that a person has corrected, and images that a person has dropped: corrections.csv."""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from image_classifier.data.labels import SPLITS, LabelledImage
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import merge_conflict, read_bytes
from image_classifier.project.text import counted

COLUMNS = ("path", "label", "reason")
DROP = "drop"  # in the column label: the image is left out
LISTED = 5  # problems in a message


@dataclass(frozen=True)
class Corrections:
    """What a file of corrections changed.

    Attributes:
        name: The file, as the setting names it.
        relabelled: Old and new label of each image whose label changed, by path.
        dropped: The reason of each image that is left out, by path; it may be empty.
        unchanged: Paths of images that had the label already.
        dropped_from_test: How many dropped images the dataset itself has in test.
    """

    name: str
    relabelled: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    dropped_from_test: int = 0

    def skipped(self) -> list[tuple[str, str]]:
        """Return path and reason of each image that is left out, as skipped.csv lists them."""
        return [
            (path, f"dropped by {self.name}" + (f": {reason}" if reason else ""))
            for path, reason in self.dropped.items()
        ]

    def by_split(self, splits: Mapping[str, str]) -> dict[str, int]:
        """Return how many images of each split have a changed label.

        Args:
            splits: The split of each image in the manifest, by path. Images that are not in it,
                such as unreadable ones, are counted under `none`.
        """
        counts = Counter(splits.get(path, "none") for path in self.relabelled)
        return {name: counts[name] for name in (*SPLITS, "none") if counts[name]}

    def record(self, splits: Mapping[str, str]) -> dict[str, Any]:
        """Return what was changed, for split.json."""
        return {
            "relabelled": {path: list(labels) for path, labels in self.relabelled.items()},
            "dropped": self.dropped,
            "by_split": self.by_split(splits),
        }

    def remarks(self, splits: Mapping[str, str]) -> list[str]:
        """Return a remark with the numbers, if anything was changed.

        Args:
            splits: See `by_split`.
        """
        parts = []
        by_split = self.by_split(splits)
        if self.relabelled:
            where = ", ".join(
                f"{number} in {'no split' if name == 'none' else name}"
                for name, number in by_split.items()
            )
            parts.append(f"{counted(len(self.relabelled), 'label')} changed ({where})")
        if self.dropped:
            given = self.dropped_from_test
            parts.append(
                f"{counted(len(self.dropped), 'image')} dropped"
                + (f" ({given} from the dataset's test split)" if given else "")
            )
        if self.unchanged:
            parts.append(
                f"{counted(len(self.unchanged), 'image')} had the label already, e.g. "
                f"{self.unchanged[0]}"
            )
        if not parts:
            return []
        text = f"{self.name}: {', '.join(parts)}."
        if "test" in by_split:
            text += " The test metrics are measured with changed labels."
        if "test" in by_split or self.dropped_from_test:
            text += (
                " Correcting only labels that a model disagrees with raises its test metrics: "
                "check a random sample of the other test images, too."
            )
        return [text]


def apply_corrections(
    images: Sequence[LabelledImage], name: str, file: Path
) -> tuple[list[LabelledImage], Corrections]:
    """Return the images with corrected labels and without the dropped ones, and what was changed.

    Args:
        images: The images as the dataset labels them.
        name: The file as the setting names it, for messages.
        file: A CSV file in UTF-8 with the columns `path`, `label` and `reason`. The label is a
            class of the dataset, or `drop`. The reason may be empty.

    Raises:
        InputError: the file has problems, which the text lists with their lines; or no image of a
            class is left.
        OSError: the file cannot be read.
    """
    known = {image.path: image for image in images}
    classes = {image.label for image in images}
    wanted: dict[str, tuple[str, str]] = {}
    lines: dict[str, int] = {}
    problems: list[str] = []
    for line, row in _rows(name, file):
        path, label, reason = (row[column] for column in COLUMNS)
        if None in row:
            problems.append(f"line {line}: too many fields; quote a reason that has a comma")
        elif path in lines:
            problems.append(f"line {line}: {path} is in line {lines[path]}, too")
        elif path not in known:
            problems.append(f"line {line}: the dataset has no image {path or 'without a path'}")
        elif label == DROP and DROP in classes:
            problems.append(
                f"line {line}: `{DROP}` is also a class. Give the class another name with "
                f"dataset.classes"
            )
        elif label != DROP and label not in classes:
            problems.append(
                f"line {line}: {label or 'an empty label'} is not a class of the dataset "
                f"({', '.join(sorted(classes)[:LISTED])}{', …' * (len(classes) > LISTED)})"
            )
        else:
            wanted[path] = label, reason
        lines.setdefault(path, line)
    if problems:
        raise InputError(_message(name, problems))

    result = Corrections(name)
    kept = []
    dropped_from_test = 0
    for image in images:
        label, reason = wanted.get(image.path, (image.label, ""))
        if label == DROP and image.path in wanted:
            result.dropped[image.path] = reason
            dropped_from_test += image.split == "test"
            continue
        if label != image.label:
            result.relabelled[image.path] = image.label, label
        elif image.path in wanted:
            result.unchanged.append(image.path)
        kept.append(replace(image, label=label))
    if lost := classes - {image.label for image in kept}:
        raise InputError(
            f"dataset.corrections={name} leaves no image of {', '.join(sorted(lost))}. To leave a "
            f"class out, or to join two classes, set dataset.classes."
        )
    return kept, replace(result, dropped_from_test=dropped_from_test)


def _rows(name: str, file: Path) -> list[tuple[int, dict[str | None, str]]]:
    """Return each row that is not empty, with its line number; missing fields are empty.

    Too many fields are under the key None, as `csv.DictReader` does it.
    """
    if advice := merge_conflict(file):
        raise InputError(f"dataset.corrections={name}: {advice}")
    content = read_bytes(file).removeprefix(codecs.BOM_UTF8)  # Excel writes the mark
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InputError(f"dataset.corrections={name} is not in UTF-8: save it so.") from None
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise InputError(
                f"dataset.corrections={name}: its first line must be {','.join(COLUMNS)}; "
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
            )
        rows: list[tuple[int, dict[str | None, str]]] = []
        for row in reader:
            texts = {
                key: value.strip() if isinstance(value, str) else "extra"
                for key, value in row.items()
            }
            if any(texts.values()):
                rows.append((reader.line_num, texts))
        return rows
    except csv.Error as error:
        raise InputError(
            f"dataset.corrections={name} is not CSV after line {reader.line_num} ({error})."
        ) from None


def _message(name: str, problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    listed = "\n  ".join([*problems[:LISTED], *more])
    return (
        f"dataset.corrections={name} has {counted(len(problems), 'problem')}:\n  {listed}\n"
        f"Paths and labels are as in {paths.LABELS}. If the file belongs to another dataset, set "
        f"dataset.corrections to a file of its own for each, in conf/dataset."
    )
