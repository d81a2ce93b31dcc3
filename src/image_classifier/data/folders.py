"""Lists the files of a dataset's folder: which are images, and of which kind the others are.

`layout` and `table` then decide the class and the split of each image.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec
from PIL import Image

from image_classifier.data import dicom
from image_classifier.data.images import FORMATS, has_few_colours
from image_classifier.data.labels import UnusedFile
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project.files import read_bytes
from image_classifier.project.text import is_printable, printable

# Kinds of files that a person would expect to be used; nobody misses the others.
IN_NO_CLASS = "image in no class folder"
OTHER_FOLDER = "image in a folder beside the classes or splits"
NO_ROW = "image without a row in the table"
LINK = "link that is not followed"
SPECIAL = "pipe, socket or device"
SUBMODULE = "git submodule"
UNREAD = "image or video in a format that is not read"
NO_LABEL = "image whose row has no label"
NO_SPLIT = "image whose row names no split"
EXPECTED = {
    IN_NO_CLASS, OTHER_FOLDER, NO_ROW, NO_LABEL, NO_SPLIT, LINK, SPECIAL, SUBMODULE, UNREAD,
}  # fmt: skip

SYSTEM = "system or thumbnail file or folder"
MASK = "mask"
EXCLUDED = "excluded by the settings include and exclude"
LEFT_OUT_CLASS = "left out by the setting classes"

SYSTEM_NAMES = {
    "__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "#recycle", "$recycle.bin",
    "system volume information", "lost+found", "thumbs", "thumbnails", "thumbnail", "icon\r",
}  # fmt: skip
MASK_WORDS = "masks?|segs?|segmentations?|gt|ground[ _-]?truths?"
MASK_FOLDER = re.compile(rf"(?:.*[ _-])?(?:{MASK_WORDS}|annotations?|labels?)", re.IGNORECASE)
MASK_NAME = re.compile(rf"(.+?)[ _.-]+(?:{MASK_WORDS})(?:[ _.-]*\d+)?", re.IGNORECASE)
MASK_PREFIX = re.compile(rf"(?:{MASK_WORDS})[ _.-]+(.+)", re.IGNORECASE)

# formats of cameras, hospitals, microscopes and drawing programs that the decoder does not read
UNREAD_ENDINGS = {
    ".dcm", ".dicom", ".nii", ".mha", ".mhd", ".nrrd", ".heic", ".heif", ".cr2", ".cr3", ".nef",
    ".arw", ".dng", ".raf", ".orf", ".rw2", ".psd", ".svg", ".eps", ".exr", ".hdr", ".jxl", ".svs",
    ".ndpi", ".czi", ".mp4", ".avi", ".mov", ".mkv", ".webm",
}  # fmt: skip
Image.init()
SAMPLE = 5  # files of a folder that are opened to tell whether they are masks
IMAGE_ENDINGS = {
    ending for ending, name in Image.registered_extensions().items() if name in FORMATS
} | {".mpo", ".jpe", ".jfif"}


@dataclass
class Listing:
    """The content of a dataset's folder.

    Attributes:
        images: Paths of the images, relative to the folder, with slashes, sorted.
        unused: Everything else.
        empty_folders: Folders in which nothing can be used.
    """

    images: list[str] = field(default_factory=list)
    unused: list[UnusedFile] = field(default_factory=list)
    empty_folders: list[str] = field(default_factory=list)


def list_files(
    folder: Path,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    links_into: Path | None = None,
) -> Listing:
    """List a folder, in a stable order.

    A file is an image when its name ends like one, or when its content begins like one. Links are
    followed only inside `folder`, and into the folder `links_into`, so that no other file of this
    machine can be read.

    Args:
        folder: The dataset's folder.
        include: Patterns as in .gitignore; only files that match are used, even if they look
            like masks. None: every image that does not.
        exclude: Patterns as in .gitignore, of files that are not used.
        links_into: A folder outside `folder` that links may lead to.

    Raises:
        InputError: a name cannot be printed.
        OSError: a folder cannot be read.
    """
    wanted = GitIgnoreSpec.from_lines(include) if include is not None else None
    unwanted = GitIgnoreSpec.from_lines(exclude)
    listing = Listing()
    for path, kind in _walk(folder, links_into, listing):
        relative = path.relative_to(folder).as_posix()
        if unwanted.match_file(relative) or (wanted and not wanted.match_file(relative)):
            listing.unused.append(UnusedFile(printable(Path(relative)), EXCLUDED))
        elif kind:
            listing.unused.append(UnusedFile(printable(Path(relative)), kind[0], kind[1]))
        elif not _is_image(path):
            ending = path.suffix.lower() or "without an ending"
            unread = ending in UNREAD_ENDINGS or _begins_like_dicom(path)
            kind_of_file = UNREAD if unread else f"other file ({ending})"
            listing.unused.append(UnusedFile(printable(Path(relative)), kind_of_file))
        else:
            check_name(path)
            listing.images.append(relative)
    if wanted is None:
        masks = find_masks(listing.images, lambda path: looks_like_mask(folder / path))
        listing.images = [path for path in listing.images if path not in masks]
        listing.unused += [UnusedFile(path, MASK) for path in sorted(masks)]
    listing.images.sort()
    return listing


def find_masks(images: Sequence[str], is_flat: Callable[[str], bool]) -> set[str]:
    """Return the paths that are masks of other images, by their names or folders.

    Masks have few colours, and are named like an image beside them, with a word such as `_mask`
    added, or with another ending only. Or they are in a folder such as `masks`, where most files
    have the names of images in a folder beside it.

    Args:
        images: Paths, relative to the dataset's folder.
        is_flat: Tells whether an image has few colours, as masks have.
    """
    by_folder: dict[PurePosixPath, dict[str, list[str]]] = {}
    for path in images:
        pure = PurePosixPath(path)
        by_folder.setdefault(pure.parent, {}).setdefault(pure.stem, []).append(path)

    def are_flat(paths: Sequence[str]) -> bool:
        return all(map(is_flat, paths[:: max(1, len(paths) // SAMPLE)][:SAMPLE]))

    masks: set[str] = set()
    for folder, stems in by_folder.items():
        like_masks = [
            path for stem, paths in stems.items() if _names_mask_of(stem) in stems for path in paths
        ]
        for depth, part in enumerate(folder.parts):
            if MASK_FOLDER.fullmatch(part) and _mirrors(folder, depth, stems, by_folder):
                like_masks = [path for paths in stems.values() for path in paths]
        if are_flat(like_masks):
            masks |= set(like_masks)
        pairs: dict[str, list[str]] = {}  # by ending: photographs 1.jpg and their masks 1.png
        for paths in stems.values():
            if len(paths) == 2:
                for path in paths:
                    pairs.setdefault(PurePosixPath(path).suffix, []).append(path)
        if len(pairs) == 2 and sum(map(len, pairs.values())) > len(stems):
            flat = [ending for ending, paths in pairs.items() if are_flat(paths)]
            if len(flat) == 1:
                masks |= set(pairs[flat[0]])
    return masks


def _names_mask_of(stem: str) -> str | None:
    """Return the name of the image whose mask a file is by its name, or None."""
    named = MASK_NAME.fullmatch(stem) or MASK_PREFIX.fullmatch(stem)
    return named[1] if named else None


def escaped(path: str) -> str:
    """Return a path as a pattern of .gitignore that matches just this path."""
    return re.sub(r"([\\*?\[\]!# ])", r"\\\1", path)


def looks_like_mask(path: Path) -> bool:
    """Return whether the image in a file has few colours; False when it cannot be decoded."""
    try:
        return has_few_colours(read_bytes(path))
    except UnreadableImage:
        return False


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by the operating system or a NAS."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_NAMES


def find_files(sources: Sequence[Path]) -> list[Path]:
    """Return the given files, and the files in the given folders except ignored ones.

    Raises:
        InputError: a file or folder does not exist.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += walk(source)
        elif source.is_file():
            files.append(source)
        else:
            raise InputError(f"{source}: no such file or folder.")
    return files


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it except ignored ones, in the order of their paths.

    Only the names in one folder, and in the folders above it, are in the memory. Links to folders
    are not followed.
    """
    with os.scandir(folder) as entries:
        found = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False), entry.is_file())
            for entry in entries
            if not is_ignored(entry.name)
        )
    for name, is_folder, is_file in found:
        if is_folder:
            yield from walk(folder / name)
        elif is_file:
            yield folder / name


def check_name(path: Path) -> None:
    """Raise an InputError if the name of a file or folder cannot be printed in one line."""
    if not is_printable(str(path)):
        raise InputError(
            f"{printable(path)}: the name is not valid UTF-8, or contains control characters such "
            f"as a line break. Rename it."
        )


def _walk(
    folder: Path, links_into: Path | None, listing: Listing
) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    """Yield every file, and its kind and the details if it cannot be used."""
    stack = [folder]
    followed: set[Path] = set()  # the targets of links to folders: a circle of links must end
    while stack:
        parent = stack.pop()
        empty = True
        for path in sorted(parent.iterdir()):
            linked = path.is_symlink()
            reason = _wrong_link(path, folder, links_into) if linked else ""
            empty &= is_ignored(path.name) or bool(reason)
            if is_ignored(path.name):
                yield path, (SYSTEM, _size_of_thumbnails(path))
            elif reason:
                yield path, (LINK, reason)
            elif path.is_dir():
                if linked and (not links_into or path.resolve() in followed):
                    yield path, (LINK, "a link to a folder")
                    continue
                if linked:
                    followed.add(path.resolve())
                stack.append(path)
            elif not path.is_file():
                yield path, (SPECIAL, "not a file, but a pipe, socket or device")
            else:
                yield path, None
        if empty:
            listing.empty_folders.append(parent.relative_to(folder).as_posix())


def _size_of_thumbnails(path: Path) -> str:
    """Return how many files a folder of thumbnails has: it may be a class after all."""
    if not path.name.lower().startswith("thumb") or not path.is_dir():
        return ""
    return f"a folder with {sum(file.is_file() for file in path.rglob('*'))} files"


def _wrong_link(path: Path, root: Path, links_into: Path | None) -> str:
    """Return why a link is not followed, or an empty text."""
    if not path.exists():
        return "a link to a missing file"
    inside, target = root.resolve(), path.resolve()
    if inside.is_relative_to(target) or path.parent.resolve().is_relative_to(target):
        return "a link to a parent folder"
    allowed = [inside, *([links_into.resolve()] if links_into else [])]
    if any(target.is_relative_to(place) for place in allowed):
        return ""
    return "a link to outside the dataset"


def _is_image(path: Path) -> bool:
    """Return whether a file's name ends like an image, or its content begins like one."""
    if path.suffix.lower() in IMAGE_ENDINGS or (dicom.AVAILABLE and _begins_like_dicom(path)):
        return True
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return False
    except Exception:  # Pillow raises a dozen types
        return False


def _begins_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return dicom.is_dicom(file.read(dicom.HEAD))


def _mirrors(
    folder: PurePosixPath,
    depth: int,
    stems: dict[str, list[str]],
    by_folder: dict[PurePosixPath, dict[str, list[str]]],
) -> bool:
    """Return whether most files of a folder have the names of images in a folder beside it."""
    before, after = folder.parts[:depth], folder.parts[depth + 1 :]
    beside: set[str] = set()
    for other, names in by_folder.items():
        same_place = other.parts == before + after or (
            len(other.parts) == len(folder.parts)
            and other.parts[:depth] == before
            and other.parts[depth + 1 :] == after
            and not MASK_FOLDER.fullmatch(other.parts[depth])
        )
        if same_place:
            beside |= set(names)
    named = {MASK_NAME.sub(r"\1", stem) for stem in stems}
    return len(named & beside) > len(named) / 2
