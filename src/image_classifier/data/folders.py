"""The images in the folders of a dataset: their classes and splits, by where they lie."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_classifier.errors import InputError

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


def order_classes(labels: set[str], positive_class: str | None) -> list[str]:
    """Return the classes sorted; of two, the positive one last, so that its index is 1.

    Raises:
        InputError: two classes without a positive one, or a positive class that is not there.
    """
    classes = sorted(labels)
    if positive_class is not None and positive_class not in classes:
        raise InputError(
            f"dataset.positive_class={positive_class} is not among the classes "
            f"{', '.join(classes)}: name one of them (with more than two, null will do)."
        )
    if len(classes) > 2:
        return classes
    if positive_class is None:
        raise InputError(
            f"Two classes, {' and '.join(classes)}: say which one is looked for, e.g. "
            f"dataset.positive_class={classes[0]}."
        )
    return sorted(classes, key=lambda label: label == positive_class)


def told(passed_over: list[PassedOver], at_most: int = 20) -> str:
    """Return how many were passed over, and the first of them by name, as one line."""
    names = [f"{item.path} ({item.reason})" for item in passed_over[:at_most]]
    more = [f"and {len(passed_over) - at_most} more"] if len(passed_over) > at_most else []
    return f"{len(passed_over)} passed over: {', '.join([*names, *more])}"


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
    if not plain(path.name):
        raise InputError(
            f"{shown(path)}: the name has bytes that are no UTF-8, or signs such as a line break. "
            f"Rename it."
        )


def shown(path: Path) -> str:
    """Return a path as one line: bytes that are no UTF-8, and control signs, as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if plain(text) else text.encode("unicode_escape").decode()


def plain(text: str) -> bool:
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
