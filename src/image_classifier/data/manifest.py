"""The manifest: a CSV file with one row for each image."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from image_classifier.data.labels import SPLITS, SplitName
from image_classifier.errors import InputError
from image_classifier.project import digests, paths
from image_classifier.project.tables import read_rows, write_rows
from image_classifier.project.text import is_printable


@dataclass(frozen=True)
class ImageRow:
    """One row of the manifest.

    `perceptual_hash` is empty for a plain image. `group` and `source` are what the dataset's table
    or patterns say, or empty. `fold` counts from 0; it is -1 in the test split, and
    everywhere if a class is too small for folds. `bytes` is the size of the file.
    """

    path: str
    label: str
    split: SplitName
    sha256: str
    perceptual_hash: str
    group: str
    source: str
    fold: int
    format: str
    mode: str
    width: int
    height: int
    bytes: int

    @property
    def cluster(self) -> str:
        """The images that a bootstrap draws together: a group, or images of the same content."""
        return self.group or self.sha256

    def split_in(self, fold: int | None) -> SplitName:
        """Return the split of the image in a training with `training.fold`, or without (None)."""
        if fold is None or self.split == "test":
            return self.split
        return "validation" if self.fold == fold else "train"


def count_images(rows: list[ImageRow]) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split."""
    counts = Counter((row.split, row.label) for row in rows)
    result: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counts.items()):
        result.setdefault(split, {})[label] = number
    return result


def write_manifest(rows: list[ImageRow], path: Path = paths.MANIFEST) -> None:
    """Write the manifest, one row per image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(rows, ImageRow, path)


def read_manifest(path: Path = paths.MANIFEST) -> list[ImageRow]:
    """Read the manifest of this project, or of a run.

    Raises:
        InputError: split has not run, or the file is damaged.
    """
    rows = read_rows(path, "split", ImageRow, _image_row)
    if not rows:
        raise InputError(f"{path} is damaged (it has no rows): run `dvc repro -f -s split`.")
    return rows


def _image_row(row: dict[str, str]) -> ImageRow:
    if row["split"] not in SPLITS:
        raise ValueError(f"there is no split {row['split']!r}")
    if not re.fullmatch("(?:[0-9a-f]{144})?", row["perceptual_hash"]):
        raise ValueError(f"{row['perceptual_hash']!r} is not a perceptual hash")
    if not _is_inside(row["path"]) or not row["label"]:
        raise ValueError(f"{row['path']!r} is not a path in the dataset, or has no label")
    sizes = {name: int(row[name]) for name in ("width", "height", "bytes")}
    if min(sizes.values()) < 1:
        raise ValueError(f"{row['path']} has a size below 1")
    numbers = sizes | {"fold": int(row["fold"])}
    return ImageRow(**{**row, **numbers})  # type: ignore[arg-type]


def _is_inside(path: str) -> bool:
    parts = Path(path).parts
    inside = bool(parts) and ".." not in parts and not Path(path).is_absolute()
    return inside and is_printable(path)


def test_digest(rows: Iterable[ImageRow]) -> str:
    """Return the SHA-256 of a test set: of the contents and labels of its images.

    It does not change with paths, groups, sources, or images of the other splits.
    """
    images = sorted((row.sha256, row.label) for row in rows if row.split == "test")
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()


def manifest_digest() -> str:
    """Return the SHA-256 of the manifest: it changes with every image, label and split."""
    return digests.of_file(paths.MANIFEST)
