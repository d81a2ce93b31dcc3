"""Finds the images of a dataset; the folders decide their classes and splits."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_classifier.errors import InputError
from image_classifier.project.text import is_printable, printable

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
# the names of folders that are splits
GIVEN_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class FoundImage:
    """A file in a class folder; `split` is None when the dataset has no splits."""

    path: Path
    label: str
    split: SplitName | None


@dataclass(frozen=True)
class SkippedFile:
    """Something in a class folder that is not copied; `path` is relative to the dataset."""

    path: str
    reason: str


def find_images(
    folder: Path, minimum_classes: int = 2
) -> tuple[list[FoundImage], list[SkippedFile]]:
    """List the files in the class folders below `folder`, in a stable order.

    `folder` contains either class folders, or `train/` and `test/` (and optionally `val/`) with
    class folders in them. Hidden and system files are ignored. Links are followed only to files
    inside `folder`, so that no file comes from outside.

    Returns:
        The files, and the skipped links, pipes and the like, with reasons.

    Raises:
        InputError: there are fewer than `minimum_classes` classes, two classes that differ only in
            case, a class without files, a class in `test/` that `train/` lacks, or a name that is
            not printable.
        OSError: a folder cannot be read.
    """
    skipped: list[SkippedFile] = []
    top = _folders(folder, folder, skipped)
    given = {
        path: GIVEN_SPLITS[path.name.lower()] for path in top if path.name.lower() in GIVEN_SPLITS
    }
    class_folders: list[tuple[Path, SplitName | None]] = [(path, None) for path in top]
    if {"train", "test"} <= set(given.values()):
        class_folders = [
            (path, split)
            for split_folder, split in given.items()
            for path in _folders(split_folder, folder, skipped)
        ]
    _refuse_similar_names(folder, {path.name for path, _ in class_folders})
    found = []
    for path, split in class_folders:
        files = _files(path, folder, skipped)
        found += [FoundImage(file, path.name, split) for file in files]
        if not files:
            raise InputError(
                f"{path}: this class folder has no images. Add images, or remove the folder."
                + (f" {summarize_skipped(skipped)}." if skipped else "")
            )
    classes = {image.label for image in found if image.split in (None, "train")}
    if len(classes) < minimum_classes:
        names = ", ".join(path.name for path in top) or "no folders"
        classes_wanted = "each of two or more classes" if minimum_classes > 1 else "each class"
        raise InputError(
            f"{folder}: expected a folder of images for {classes_wanted}, or train/ and test/ "
            f"with such folders in them; found {names}. If the class folders are deeper, set "
            f"dataset.path or dataset.subfolder to their parent."
            + (f" {summarize_skipped(skipped)}." if skipped else "")
        )
    if unknown := {image.label for image in found} - classes:
        raise InputError(
            f"{folder}: test/ or validation has classes that train/ lacks: "
            f"{', '.join(sorted(unknown))}. Give the folders the same names, or remove these."
        )
    return found, skipped


def order_classes(labels: set[str], positive_class: str | None) -> list[str]:
    """Return the classes sorted; of two, the positive one last, so that its index is 1.

    Raises:
        InputError: there are two classes and no positive class is set, or the positive class does
            not exist.
    """
    classes = sorted(labels)
    if positive_class is not None and positive_class not in classes:
        raise InputError(
            f"dataset.positive_class={positive_class} is not one of the classes "
            f"{', '.join(classes)}: set it to one of them (null with more than two classes)."
        )
    if len(classes) > 2:
        return classes
    if positive_class is None:
        raise InputError(
            f"There are two classes, {' and '.join(classes)}: set the positive one, e.g. "
            f"dataset.positive_class={classes[0]}."
        )
    return sorted(classes, key=lambda label: label == positive_class)


def summarize_skipped(skipped: list[SkippedFile], at_most: int = 20) -> str:
    """Return the number of skipped files, and the names of the first ones, as one line."""
    names = [f"{item.path} ({item.reason})" for item in skipped[:at_most]]
    more = [f"and {len(skipped) - at_most} more"] if len(skipped) > at_most else []
    return f"{len(skipped)} skipped: {', '.join([*names, *more])}"


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by the operating system."""
    return name.startswith(".") or name.lower() in ("__macosx", "thumbs.db", "desktop.ini")


def _folders(folder: Path, root: Path, skipped: list[SkippedFile]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    found = []
    for path in sorted(folder.iterdir()):
        if is_ignored(path.name):
            continue
        if path.is_symlink() and (reason := _wrong_link(path, root)):
            skipped.append(SkippedFile(printable(path.relative_to(root)), reason))
        elif path.is_dir():
            _check_name(path)
            found.append(path)
    return found


def _files(class_folder: Path, root: Path, skipped: list[SkippedFile]) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(class_folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_ignored(name)]
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]  # not walked
        for name in [*linked, *names]:
            path = Path(parent) / name
            if is_ignored(name):
                continue
            if reason := _not_a_file(path, root):
                skipped.append(SkippedFile(printable(path.relative_to(root)), reason))
            else:
                _check_name(path)
                found.append(path)
    return sorted(found)


def _not_a_file(path: Path, root: Path) -> str:
    """Return why a path is not a file to copy, or an empty text."""
    if path.is_symlink():
        if reason := _wrong_link(path, root):
            return reason
        if path.is_dir():
            return "a link to a folder"
    return "" if path.is_file() else "not a file, but a pipe, socket or device"


def _wrong_link(path: Path, root: Path) -> str:
    """Return why a link is not followed, or an empty text."""
    if not path.exists():
        return "a link to a missing file"
    inside, target = root.resolve(), path.resolve()
    if inside.is_relative_to(target):
        return "a link to a parent folder"
    return "" if target.is_relative_to(inside) else "a link to outside the dataset"


def _raise(error: OSError) -> None:
    raise error


def _check_name(path: Path) -> None:
    if not is_printable(path.name):
        raise InputError(
            f"{printable(path)}: the name is not valid UTF-8, or contains control characters such "
            f"as a line break. Rename it."
        )


def _refuse_similar_names(folder: Path, labels: set[str]) -> None:
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(unicodedata.normalize("NFKC", label).casefold(), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            raise InputError(
                f"{folder}: the classes {' and '.join(names)} differ only in upper and lower case, "
                f"or in the encoding of the same letters. Put their images into one folder, or "
                f"rename one of them."
            )
