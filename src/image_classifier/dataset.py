"""What fetch, split and prepare leave on disk, and how the later stages read it back."""

import csv
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from image_classifier import paths
from image_classifier.config import Config, flatten
from image_classifier.errors import InputError
from image_classifier.files import whole_file
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
class PassedOver:
    """What lies in a class folder and is not brought along; `path` is relative to the dataset.

    Signs that cannot be printed are escaped in it.
    """

    path: str
    reason: str


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


def find_images(
    folder: Path, minimum_classes: int = 2
) -> tuple[list[FoundImage], list[PassedOver]]:
    """List the files in the class folders below `folder`, in a stable order, and what is no file.

    `folder` holds either class folders, or `train/` and `test/` (and perhaps `val/`) with the
    class folders in them. Hidden and system files are passed over without a word; so that no file
    comes from outside `folder`, only links to files in it are followed below the class folders.

    Returns:
        The files, and the links, pipes and the like that were passed over, with reasons.

    Raises:
        InputError: there are fewer classes, or two that differ in case only, an empty one, classes
            of `test/` that `train/` lacks, or names that cannot be written down.
        OSError: a folder in it cannot be read.
    """
    passed_over: list[PassedOver] = []
    top = _folders(folder, folder, passed_over)
    given = {
        path: GIVEN_SPLITS[path.name.lower()] for path in top if path.name.lower() in GIVEN_SPLITS
    }
    class_folders: list[tuple[Path, SplitName | None]] = [(path, None) for path in top]
    if {"train", "test"} <= set(given.values()):
        class_folders = [
            (path, split)
            for split_folder, split in given.items()
            for path in _folders(split_folder, folder, passed_over)
        ]
    _refuse_classes_alike(folder, {path.name for path, _ in class_folders})
    found = []
    for path, split in class_folders:
        files = _files(path, folder, passed_over)
        found += [FoundImage(file, path.name, split) for file in files]
        if not files:
            raise InputError(
                f"{path}: a class folder without images. Put images in, or remove the folder."
                + (f" {told(passed_over)}." if passed_over else "")
            )
    classes = {image.label for image in found if image.split in (None, "train")}
    if len(classes) < minimum_classes:
        names = ", ".join(path.name for path in top) or "no folders"
        many = "each of two or more classes" if minimum_classes > 1 else "each class"
        raise InputError(
            f"{folder}: expected a folder of images for {many}, or train/ "
            f"and test/ with such folders in them; found {names}. If the class folders lie "
            f"deeper, name their parent in dataset.path or dataset.subfolder."
            + (f" {told(passed_over)}." if passed_over else "")
        )
    if unknown := {image.label for image in found} - classes:
        raise InputError(
            f"{folder}: test/ or validation has classes that train/ lacks: "
            f"{', '.join(sorted(unknown))}. Name the folders alike, or remove these."
        )
    return found, passed_over


def told(passed_over: list[PassedOver], at_most: int = 20) -> str:
    """Return how many were passed over, and the first of them by name, as one line."""
    names = [f"{item.path} ({item.reason})" for item in passed_over[:at_most]]
    more = [f"and {len(passed_over) - at_most} more"] if len(passed_over) > at_most else []
    return f"{len(passed_over)} passed over: {', '.join([*names, *more])}"


def count(images: list[FoundImage] | list[ImageRow]) -> dict[str, dict[str, int]]:
    """Return how many images each split has of each class; `all` where there is no split."""
    counts = Counter((image.split or "all", image.label) for image in images)
    result: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counts.items()):
        result.setdefault(split, {})[label] = number
    return result


def write_manifest(rows: list[ImageRow], path: Path = paths.MANIFEST) -> None:
    """Write the manifest, one row per image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(ImageRow)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_manifest() -> list[ImageRow]:
    """Read the manifest.

    Raises:
        InputError: split has not run, or the file is damaged.
    """
    if not paths.MANIFEST.is_file():
        raise InputError(f"{paths.MANIFEST} not found: run `dvc repro split`.")
    try:
        with paths.MANIFEST.open(newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [_image_row(row) for row in reader]
        if not rows:
            raise ValueError("it has no rows")
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{paths.MANIFEST} is damaged ({error}): run `dvc repro -f -s split`."
        ) from None
    return rows


def _image_row(row: dict[str, str]) -> ImageRow:
    names = [field.name for field in fields(ImageRow)]
    if list(row) != names or None in row.values():
        raise ValueError(f"a row is not of the columns {', '.join(names)}")
    if row["split"] not in SPLITS:
        raise ValueError(f"there is no split {row['split']!r}")
    if not re.fullmatch("[0-9a-f]{144}", row["perceptual_hash"]):
        raise ValueError(f"{row['perceptual_hash']!r} is no perceptual hash")
    if not _is_inside(row["path"]) or not row["label"]:
        raise ValueError(f"{row['path']!r} is no path in a class folder")
    sizes = {name: int(row[name]) for name in ("width", "height", "bytes")}
    if min(sizes.values()) < 1:
        raise ValueError(f"{row['path']} has a size below 1")
    return ImageRow(**{**row, **sizes})  # type: ignore[arg-type]


def _is_inside(path: str) -> bool:
    parts = Path(path).parts
    return len(parts) > 1 and ".." not in parts and not Path(path).is_absolute() and _plain(path)


def manifest_digest() -> str:
    """Return the SHA-256 of the manifest: it changes with any image, label or split."""
    return hashlib.sha256(paths.MANIFEST.read_bytes()).hexdigest()


def load_prepared(config: Config) -> PreparedDataset:
    """Open what fetch, split and prepare made; the images stay on disk.

    Raises:
        InputError: a stage has not run, or ran with other settings than `config` has.
    """
    settings = dict[str, Any]
    fetched = read_record(paths.FETCHED, "prepare", settings=settings, digest=str)
    split = read_record(paths.SPLIT, "prepare", settings=settings, classes=list[str])
    prepared = read_record(paths.PREPARED, "prepare", settings=settings, manifest_digest=str)
    current = flatten(config)
    changed = [
        f"{key} is {current.get(key)!r}, prepared with {value!r}"
        for record in (fetched, split, prepared)
        for key, value in record["settings"].items()
        if current.get(key) != value
    ]
    if changed:
        raise InputError(
            "The prepared images were made with other settings: "
            + "; ".join(changed)
            + ". Changes of the data go through the whole pipeline: `dvc exp run -S …`."
        )
    digest = manifest_digest()
    if prepared["manifest_digest"] != digest:
        raise InputError(f"{paths.MANIFEST} changed since prepare: run `dvc repro prepare`.")
    rows = read_manifest()
    classes = split["classes"]
    dataset = PreparedDataset(
        rows=rows,
        images_file=paths.IMAGES,
        labels=np.array([classes.index(row.label) for row in rows], dtype=np.int64),
        classes=classes,
        digest=digest,
        source={key: fetched[key] for key in ("source", "commit", "digest")},
    )
    try:
        complete = dataset.images.shape == (len(rows), *config.image.shape)
    except (OSError, ValueError):
        complete = False
    if not complete:
        raise InputError(f"{paths.IMAGES} is damaged: run `dvc repro -f -s prepare`.")
    return dataset


def check_batch_size(config: Config, dataset: PreparedDataset) -> None:
    """Raise an InputError where a batch would be larger than the training split."""
    images = len(dataset.indices("train"))
    if config.training.batch_size > images:
        raise InputError(
            f"training.batch_size={config.training.batch_size} is more than the {images} training "
            f"images: set it to {images} at most."
        )


def write_record(path: Path, config: Config, settings: list[str], **facts: Any) -> None:
    """Write what a stage found, with the settings it ran with, as JSON.

    The file is there whole, or it is the one that was there before.

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
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"settings": values, **facts}, indent=2) + "\n")


def read_record(path: Path, stage: str, **kinds: Any) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Args:
        path: The file.
        stage: The stage that makes it, for the message.
        kinds: The types of the values that are needed, e.g. `classes=list[str]`.

    Raises:
        InputError: the stage has not run, or the file is damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: run `dvc repro {stage}`.")
    try:
        record = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
        for key, kind in kinds.items():
            TypeAdapter(kind).validate_python(record.get(key), strict=True)
    except ValidationError as error:
        reason = " ".join(str(error.errors()[0]["msg"]).split())
        raise InputError(f"{path} is damaged ({reason}): run `dvc repro -f -s {stage}`.") from None
    return record


def _folders(folder: Path, root: Path, passed_over: list[PassedOver]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    found = []
    for path in sorted(folder.iterdir()):
        if _hidden(path.name):
            continue
        if path.is_symlink() and (reason := _wrong_link(path, root)):
            passed_over.append(PassedOver(shown(path.relative_to(root)), reason))
        elif path.is_dir():
            _check_name(path)
            found.append(path)
    return found


def _files(class_folder: Path, root: Path, passed_over: list[PassedOver]) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(class_folder, onerror=_raise):
        folders[:] = [name for name in folders if not _hidden(name)]
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]  # not walked
        for name in [*linked, *names]:
            path = Path(parent) / name
            if _hidden(name):
                continue
            if reason := _no_file(path, root):
                passed_over.append(PassedOver(shown(path.relative_to(root)), reason))
            else:
                _check_name(path)
                found.append(path)
    return sorted(found)


def _no_file(path: Path, root: Path) -> str:
    """Return why a path is no file to bring along, or nothing."""
    if path.is_symlink():
        if reason := _wrong_link(path, root):
            return reason
        if path.is_dir():
            return "a link to a folder"
    return "" if path.is_file() else "no file, but a pipe, socket or device"


def _wrong_link(path: Path, root: Path) -> str:
    """Return why a link is not followed, or nothing."""
    if not path.exists():
        return "a link to nowhere"
    inside, target = root.resolve(), path.resolve()
    if inside.is_relative_to(target):
        return "a link in a circle"
    return "" if target.is_relative_to(inside) else "a link out of the dataset"


def _raise(error: OSError) -> None:
    raise error


def _check_name(path: Path) -> None:
    if not _plain(path.name):
        raise InputError(
            f"{shown(path)}: the name has bytes that are no UTF-8, or signs such as a line break. "
            f"Rename it."
        )


def shown(path: Path) -> str:
    """Return a path as one line: bytes that are no UTF-8, and control signs, as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if _plain(text) else text.encode("unicode_escape").decode()


def _plain(text: str) -> bool:
    """Return whether text fits in one line: no control signs, no bytes that are no UTF-8."""
    return not {unicodedata.category(sign) for sign in text} & {"Cc", "Cs", "Zl", "Zp"}


def _refuse_classes_alike(folder: Path, labels: set[str]) -> None:
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(unicodedata.normalize("NFKC", label).casefold(), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            raise InputError(
                f"{folder}: the classes {' and '.join(names)} differ only in upper and lower case, "
                f"or in how the same letters are stored. Put their images in one folder, or give "
                f"them other names."
            )


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("__macosx", "thumbs.db", "desktop.ini")
