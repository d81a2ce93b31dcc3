"""What fetch, split and prepare leave on disk, and how the later stages read it back."""

import csv
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from image_classifier import paths
from image_classifier.config import Config, flatten
from image_classifier.errors import InputError
from image_classifier.images import Pixels

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
GIVEN_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class FoundImage:
    """A file in a class folder; `split` is None where the dataset comes without a split."""

    path: Path
    label: str
    split: SplitName | None


@dataclass(frozen=True)
class ImageRow:
    """One row of the manifest.

    `group` and `source` are what the dataset's patterns found in the path, or empty; `bytes` is
    the file's size.
    """

    path: str
    label: str
    split: SplitName
    sha256: str
    perceptual_hash: str
    group: str
    source: str
    format: str
    mode: str
    width: int
    height: int
    bytes: int

    @property
    def unit(self) -> str:
        """What a bootstrap draws it with: its group, or else images of the same content."""
        return self.group or self.sha256


@dataclass(frozen=True)
class PreparedDataset:
    """Every image of the manifest, decoded.

    It stays as it was opened: a stage that makes the images anew meanwhile makes another file.

    Attributes:
        rows: The manifest.
        images_file: The .npy file of `images`.
        labels: int64 array of shape (rows,): index into `classes`.
        classes: Names; of two, the second is the positive one.
        digest: SHA-256 of the manifest, hexadecimal.
        source: Where the images came from: `source`, `commit`, `digest`.
    """

    rows: list[ImageRow]
    images_file: Path
    labels: npt.NDArray[np.int64]
    classes: list[str]
    digest: str
    source: dict[str, Any]

    @property
    def images(self) -> Pixels:
        """The images on disk: uint8 array of shape (rows, height, width, channels).

        Mapped anew at every access, and let go with it: pages of a mapping that is kept would
        count as this process's memory, up to the size of the file.
        """
        file, dtype, shape, start = self._opened
        return np.memmap(file, dtype, "r", start, shape)

    @cached_property
    def _opened(self) -> tuple[BinaryIO, np.dtype[Any], tuple[int, ...], int]:
        file = self.images_file.open("rb")
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return file, dtype, shape, file.tell()

    def indices(self, split: SplitName) -> npt.NDArray[np.int64]:
        """Return the row numbers of one split, int64, in the manifest's order."""
        return np.flatnonzero([row.split == split for row in self.rows])


def find_images(folder: Path, minimum_classes: int = 2) -> list[FoundImage]:
    """List the files in the class folders below `folder`, in a stable order.

    `folder` holds either class folders, or `train/` and `test/` (and perhaps `val/`) with the
    class folders in them. Hidden files, and links that lead out of `folder`, are passed over.

    Raises:
        InputError: there are fewer classes, or classes of `test/` that `train/` lacks.
    """
    top = _folders(folder)
    given = {
        path: GIVEN_SPLITS[path.name.lower()] for path in top if path.name.lower() in GIVEN_SPLITS
    }
    if {"train", "test"} <= set(given.values()):
        found = [
            FoundImage(path, class_folder.name, split)
            for split_folder, split in given.items()
            for class_folder in _folders(split_folder)
            for path in _files(class_folder, folder)
        ]
    else:
        found = [
            FoundImage(path, class_folder.name, None)
            for class_folder in top
            for path in _files(class_folder, folder)
        ]
    classes = {image.label for image in found if image.split in (None, "train")}
    if len(classes) < minimum_classes:
        names = ", ".join(path.name for path in top) or "no folders"
        many = "each of two or more classes" if minimum_classes > 1 else "each class"
        raise InputError(
            f"{folder}: expected a folder of images for {many}, or train/ "
            f"and test/ with such folders in them; found {names}. If the class folders lie "
            f"deeper, name their parent in dataset.path or dataset.subfolder."
        )
    if unknown := {image.label for image in found} - classes:
        raise InputError(
            f"{folder}: test/ or validation has classes that train/ lacks: "
            f"{', '.join(sorted(unknown))}. Name the folders alike, or remove these."
        )
    return found


def count(images: list[FoundImage] | list[ImageRow]) -> dict[str, dict[str, int]]:
    """Return how many images each split has of each class; `all` where there is no split."""
    counts = Counter((image.split or "all", image.label) for image in images)
    result: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counts.items()):
        result.setdefault(split, {})[label] = number
    return result


def write_manifest(rows: list[ImageRow]) -> None:
    """Write the manifest, one row per image."""
    paths.MANIFEST.parent.mkdir(parents=True, exist_ok=True)
    with paths.MANIFEST.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(ImageRow)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_manifest() -> list[ImageRow]:
    """Read the manifest.

    Raises:
        InputError: split has not run.
    """
    if not paths.MANIFEST.is_file():
        raise InputError(f"{paths.MANIFEST} not found: run `dvc repro split`.")
    with paths.MANIFEST.open(newline="") as file:
        return [
            ImageRow(**{**row, **{name: int(row[name]) for name in ("width", "height", "bytes")}})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def manifest_digest() -> str:
    """Return the SHA-256 of the manifest: it changes with any image, label or split."""
    return hashlib.sha256(paths.MANIFEST.read_bytes()).hexdigest()


def load_prepared(config: Config) -> PreparedDataset:
    """Open what fetch, split and prepare made; the images stay on disk.

    Raises:
        InputError: a stage has not run, or ran with other settings than `config` has.
    """
    records = {}
    for path in (paths.FETCHED, paths.SPLIT, paths.PREPARED):
        if not path.is_file():
            raise InputError(f"{path} not found: run `dvc repro prepare`.")
        records[path] = json.loads(path.read_text())
    current = flatten(config)
    changed = [
        f"{key} is {current[key]!r}, prepared with {value!r}"
        for record in records.values()
        for key, value in record["settings"].items()
        if current[key] != value
    ]
    if changed:
        raise InputError(
            "The prepared images were made with other settings: "
            + "; ".join(changed)
            + ". Changes of the data go through the whole pipeline: `dvc exp run -S …`."
        )
    digest = manifest_digest()
    if records[paths.PREPARED]["manifest_digest"] != digest:
        raise InputError(f"{paths.MANIFEST} changed since prepare: run `dvc repro prepare`.")
    rows = read_manifest()
    classes = records[paths.SPLIT]["classes"]
    dataset = PreparedDataset(
        rows=rows,
        images_file=paths.IMAGES,
        labels=np.array([classes.index(row.label) for row in rows], dtype=np.int64),
        classes=classes,
        digest=digest,
        source={key: records[paths.FETCHED][key] for key in ("source", "commit", "digest")},
    )
    try:
        complete = dataset.images.shape == (len(rows), *config.image.shape)
    except (OSError, ValueError):
        complete = False
    if not complete:
        raise InputError(f"{paths.IMAGES} is damaged: run `dvc repro -f -s prepare`.")
    return dataset


def write_record(path: Path, config: Config, settings: list[str], **facts: Any) -> None:
    """Write what a stage found, with the settings it ran with, as JSON.

    Args:
        path: The file.
        config: All settings.
        settings: Dotted names of those, or of sections, that decide the stage's output: the
            stage's `params` in dvc.yaml.
        facts: What the stage found.
    """
    values = {
        key: value
        for key, value in flatten(config).items()
        if any(key == name or key.startswith(name + ".") for name in settings)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": values, **facts}, indent=2) + "\n")


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))


def _files(class_folder: Path, root: Path) -> list[Path]:
    inside = root.resolve()
    return sorted(
        path
        for path in class_folder.rglob("*")
        if path.is_file()
        and not any(_hidden(part) for part in path.relative_to(class_folder).parts)
        and path.resolve().is_relative_to(inside)
    )


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")
