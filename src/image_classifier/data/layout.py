"""Decides from folders alone which class and split every image of a dataset has.

A dataset has class folders, or split folders with class folders in them, or class folders with
split folders in them. They may be some levels deep, and there may be other folders beside them.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from image_classifier.data.folders import IN_NO_CLASS, LEFT_OUT_CLASS, OTHER_FOLDER, Listing
from image_classifier.data.labels import SPLITS, LabelledImage, Labels, SplitName, UnusedFile
from image_classifier.errors import InputError

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "eval": "validation", "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip

# names such as patient12, 000123 or 2024-01-31, which classes rarely have
IDENTIFIER = re.compile(r"[A-Za-z]{1,10}[ _-]?\d+|\d{3,}|\d+[._-][\d._-]+")

# names of subfolders in class folders that are not classes
PARTS = {
    "images", "image", "imgs", "img", "masks", "mask", "labels", "annotations", "raw", "original",
    "originals", "resized", "processed", "augmented", "crops", "full", "left", "right",
}  # fmt: skip


@dataclass(frozen=True)
class _Tree:
    """The images below one folder, by the names of its subfolders."""

    prefix: tuple[str, ...]
    direct: list[str]
    folders: dict[str, "_Tree"]

    @property
    def size(self) -> int:
        return len(self.direct) + sum(child.size for child in self.folders.values())

    def paths(self) -> list[str]:
        """Return every image below this folder."""
        return [*self.direct, *(path for child in self.folders.values() for path in child.paths())]

    def descend(self) -> "_Tree":
        """Return the folder below which something branches: folders that hold one folder only."""
        tree = self
        while len(tree.folders) == 1 and not tree.direct:
            (child,) = tree.folders.values()
            if not child.folders:
                break
            tree = child
        return tree


def split_of(name: str) -> SplitName | None:
    """Return the split that a folder's name or a table's value stands for, or None.

    `Training`, `train_images`, `seg_test`, `TestSet` and `val2017` are such names.
    """
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)]
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def labels_from_folders(listing: Listing, classes: Mapping[str, str] | None = None) -> Labels:
    """Return the class and split of every image, from its folders, and all that is not used.

    Args:
        listing: The files of the dataset's folder.
        classes: The setting `dataset.classes`; its keys tell which folders are classes.

    Raises:
        InputError: the folders are splits without classes, or may be classes or groups, or a class
            folder is empty.
    """
    tree = _tree(listing.images).descend()
    labels = Labels(unused=list(listing.unused))
    if tree.prefix:
        labels.notes.append(f"The class folders are in {'/'.join(tree.prefix)}/.")
    _label(tree, set(classes or ()), labels)
    labels.images.sort(key=lambda image: image.path)
    _refuse_empty_classes(labels, listing.empty_folders)
    return labels


def choose_classes(labels: Labels, classes: Mapping[str, str] | None) -> Labels:
    """Rename, merge and leave out labels as the setting `dataset.classes` says.

    Raises:
        InputError: the setting names a label that the dataset lacks, two labels differ only in
            upper and lower case, or a label contains `${`.
    """
    if odd := [image.label for image in labels.images if "${" in image.label]:
        raise InputError(
            f"The label {odd[0]} contains ${{, which Hydra reads as a reference to a setting. "
            f"Rename the folder, or change the label in the table."
        )
    if classes is None:
        refuse_similar_names({image.label for image in labels.images})
        return labels
    known = {image.label for image in labels.images}
    if missing := sorted(set(classes) - known):
        raise InputError(
            f"dataset.classes names {', '.join(missing)}, which the dataset lacks. It has the "
            f"labels {', '.join(sorted(known))}."
        )
    kept = [
        LabelledImage(image.path, classes[image.label], image.split, image.group, image.source)
        for image in labels.images
        if image.label in classes
    ]
    left = [
        UnusedFile(image.path, LEFT_OUT_CLASS, image.label)
        for image in labels.images
        if image.label not in classes
    ]
    refuse_similar_names({image.label for image in kept})
    return Labels(kept, [*labels.unused, *left], labels.notes)


def plain(label: str) -> str:
    """Return a label without differences in case, spaces and the encoding of letters."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def refuse_similar_names(labels: Collection[str]) -> None:
    """Raise an InputError if two labels differ only in case, or in the encoding of letters."""
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(plain(label), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            raise InputError(
                f"The classes {' and '.join(map(repr, names))} differ only in upper and lower "
                f"case, in spaces, or in the encoding of the same letters. Rename one, or merge "
                f"them: list all classes in dataset.classes, e.g. "
                f"dataset.classes={{{names[0]}: {names[1]}, ...}}."
            )


def _tree(images: Sequence[str]) -> _Tree:
    root = _Tree((), [], {})
    for path in images:
        node = root
        for part in PurePosixPath(path).parts[:-1]:
            if part not in node.folders:
                node.folders[part] = _Tree((*node.prefix, part), [], {})
            node = node.folders[part]
        node.direct.append(path)
    return root


def _label(tree: _Tree, classes: set[str], labels: Labels) -> None:
    """Add the images of a folder to `labels`: the story of the decision, from top to bottom."""
    tops = tree.folders
    if not tops:
        _unused(tree.direct, IN_NO_CLASS, labels)
        return
    if classes & set(tops):
        _add_classes(tree, "", "", labels)
        return
    given = _split_folders(tree)
    if given:
        _unused(tree.direct, IN_NO_CLASS, labels)
        for name, top in tops.items():
            if name in given and top.folders:
                _add_split(top.descend(), given[name], labels)
            else:
                _unused(top.paths(), OTHER_FOLDER, labels)
        _note_splits(given, labels)
        return
    splits = {split_of(name) for name in tops}
    if None not in splits and len(splits) > 1:
        raise InputError(
            f"{', '.join(sorted(tops))} look like splits, but contain no class folders. Put the "
            f"images of each class into a folder of its own, or set dataset.table to a table with "
            f"the label of each image."
        )
    common = _common_folders(tree)
    if common and all(split_of(name) for name in common):
        for label, top in tops.items():
            for name, part in top.folders.items():
                split = split_of(name)
                if split:
                    labels.images += [LabelledImage(path, label, split) for path in part.paths()]
                else:
                    _unused(part.paths(), OTHER_FOLDER, labels)
            _unused(top.direct, IN_NO_CLASS, labels)
        _unused(tree.direct, IN_NO_CLASS, labels)
        labels.notes.append(f"Every class folder has its own splits: {_names(common)}.")
        return
    if common and not classes and all(IDENTIFIER.fullmatch(name) for name in common):
        raise InputError(
            f"The folders {_names(tops)} all contain the folders {_names(common)}. Which of them "
            f"are the classes? List them in dataset.classes, e.g. "
            f"dataset.classes={{{min(tops)}: {min(tops)}, ...}}."
        )
    if main := _main_folder(tree):
        for name, top in tops.items():
            if name != main:
                _unused(top.paths(), OTHER_FOLDER, labels)
        _unused(tree.direct, IN_NO_CLASS, labels)
        labels.notes.append(f"The class folders are in {'/'.join((*tree.prefix, main))}/.")
        _label(tops[main].descend(), classes, labels)
        return
    deeper = {name for top in tops.values() for name in top.folders}
    if common or classes & deeper:
        for source, top in tops.items():
            _add_classes(top, "", source, labels)
        _unused(tree.direct, IN_NO_CLASS, labels)
        labels.notes.append(
            f"The folders {_names(tops)} all contain class folders, so they are not classes: "
            f"their names are the sources of the images."
        )
        return
    _add_classes(tree, "", "", labels)


def _add_split(tree: _Tree, split: SplitName, labels: Labels) -> None:
    """Add the images of a split; in it there may be class folders, or splits once more."""
    inner = _split_folders(tree)
    if len(inner) < 2 or len(inner) < len(tree.folders):
        _add_classes(tree, split, "", labels)
        return
    _unused(tree.direct, IN_NO_CLASS, labels)
    for name, top in tree.folders.items():
        _add_classes(top.descend(), inner[name], "", labels)
    _note_splits(inner, labels, "/".join(tree.prefix))


def _split_folders(tree: _Tree) -> dict[str, SplitName]:
    """Return the folders that are splits, because of their names and the class folders in them."""
    named: dict[str, SplitName] = {}
    for name, top in tree.folders.items():
        if top.folders and (split := split_of(name)):
            named[name] = split
    others = [top for name, top in tree.folders.items() if name not in named]
    # a class may be called `train`: then the folders beside it are classes with images in them
    if len(named) == 1 and any(top.direct and not split_of(top.prefix[-1]) for top in others):
        return {}
    if any(name.lower() in SPLIT_NAMES for name in named):
        return named
    # names such as seg_train are splits only if they contain the same class folders
    classes = [set(tree.folders[name].descend().folders) for name in named]
    same = len(classes) > 1 and 2 * len(set.intersection(*classes)) >= len(set.union(*classes))
    return named if same else {}


def _common_folders(tree: _Tree) -> set[str]:
    """Return the names of the subfolders, if most images are in subfolders whose names repeat."""
    if len(tree.folders) < 2 or any(top.direct for top in tree.folders.values()):
        return set()
    number = Counter(name for top in tree.folders.values() for name in top.folders)
    repeated = {name for name in number if number[name] > 1}
    if {name.lower() for name in repeated} & PARTS:
        return set()
    size = sum(
        child.size
        for top in tree.folders.values()
        for name, child in top.folders.items()
        if name in repeated
    )
    # a name that occurs once counts, too: a defect on one day only, or one class without a split
    return set(number) if size >= 0.6 * tree.size and len(number) >= 2 else set()


def _main_folder(tree: _Tree) -> str | None:
    """Return the folder with class folders that holds nearly all images, beside plain ones."""
    for name, top in tree.folders.items():
        classes = [child for child in top.folders.values() if child.size]
        if len(classes) >= 2 and not top.direct and top.size >= 0.9 * tree.size:
            return name
    return None


def _add_classes(tree: _Tree, split: str, source: str, labels: Labels) -> None:
    """Add the images of a folder whose subfolders are classes."""
    some_are_plain = any(child.direct for child in tree.folders.values())
    for label, child in tree.folders.items():
        parts = {name for name in child.folders if not IDENTIFIER.fullmatch(name)} - PARTS
        if len(parts) > 1 and not child.direct and some_are_plain:
            labels.notes.append(
                f"{'/'.join(child.prefix)} contains the folders {_names(parts)}. All images in "
                f"them get the class {label}. If these are classes of their own, move them beside "
                f"the other classes."
            )
        labels.images += [LabelledImage(path, label, split, "", source) for path in child.paths()]
    _unused(tree.direct, IN_NO_CLASS, labels)


def _unused(paths: Sequence[str], kind: str, labels: Labels) -> None:
    labels.unused += [UnusedFile(path, kind) for path in paths]


def _note_splits(given: Mapping[str, SplitName], labels: Labels, place: str = "") -> None:
    by_split: dict[str, list[str]] = {}
    for name, split in sorted(given.items()):
        by_split.setdefault(split, []).append(f"{name}/")
    parts = [f"{' and '.join(by_split[s])} for {s}" for s in SPLITS if s in by_split]
    where = place or "The dataset"
    labels.notes.append(f"{where} has its own splits: {', '.join(parts)}.")
    if "train" not in by_split:
        raise InputError(
            f"The dataset has the splits {_names(given)}, but none for training. Rename a folder "
            f"to train, or list the classes in dataset.classes if these folders are classes."
        )


def _refuse_empty_classes(labels: Labels, empty_folders: Collection[str]) -> None:
    """Raise an InputError if an empty folder lies beside the class folders."""
    parents = {
        PurePosixPath(*parts[: parts.index(image.label)])
        for image in labels.images
        if image.label in (parts := PurePosixPath(image.path).parts)
    }
    for name in sorted(empty_folders):
        if PurePosixPath(name).parent in parents:
            raise InputError(
                f"{name}: this class folder has no images, or only links that are not followed. "
                f"Add images, remove the folder, or set dataset.links_into."
            )


def _names(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
