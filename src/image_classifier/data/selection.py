"""Selects the images of a dataset that are used, with their classes and splits."""

from collections import Counter
from pathlib import Path

from image_classifier.config.schema import ImageSource
from image_classifier.data import dicom
from image_classifier.data.folders import EXPECTED, LINK, escaped, list_files
from image_classifier.data.labels import Labels, summarize_unused
from image_classifier.data.layout import choose_classes, labels_from_folders
from image_classifier.data.table import find_tables, labels_from_table
from image_classifier.errors import InputError
from image_classifier.project.paths import located


def select_images(key: str, folder: Path, source: ImageSource, minimum_classes: int = 2) -> Labels:
    """Return the images in a folder with their classes and splits, and what is not used.

    Args:
        key: The name of the setting `source`, for messages.
        folder: The dataset's folder.
        source: The settings.
        minimum_classes: How many classes there must be.

    Raises:
        InputError: there are too few classes, too many images would not be used, the folders or
            the table are not clear, a split has a class that training lacks, or the folder
            `links_into` does not exist.
        OSError: a folder or file cannot be read.
    """
    store = None
    if source.links_into:
        store = located(f"{key}.links_into", source.links_into, "folder")
    listing = list_files(folder, source.include, source.exclude, store)
    labels = (
        labels_from_folders(listing, source.classes)
        if source.table is None
        else labels_from_table(folder, listing, source)
    )
    labels = choose_classes(labels, source.classes)
    check_classes(folder, labels, minimum_classes, source)
    check_unused(key, labels, source.maximum_unused)
    return labels


def check_classes(folder: Path, labels: Labels, minimum_classes: int, source: ImageSource) -> None:
    """Check that there are enough classes, and that training has all of them.

    Raises:
        InputError: there are not; the text names what was found, and what helps.
    """
    classes = {image.label for image in labels.images if image.split in ("", "train")}
    if len(classes) < minimum_classes:
        wanted = "each of two or more classes" if minimum_classes > 1 else "each class"
        counts = Counter(image.label for image in labels.images)
        parts = [", ".join(f"{n} ({counts[n]} images)" for n in sorted(classes)) or "no classes"]
        parts += summarize_unused(labels.unused)
        hint = f" {table_hint(folder)}" if source.table is None else ""
        raise InputError(
            f"{folder}: expected a folder of images for {wanted}, or train/ and test/ with such "
            f"folders in them; found {'; '.join(parts)}.{hint} `image-classifier dataset "
            f"{folder}` shows what the folder contains, and writes the settings for it."
        )
    if unknown := {image.label for image in labels.images} - classes:
        raise InputError(
            f"{folder}: test or validation has classes that training lacks: "
            f"{', '.join(sorted(unknown))}. Use the same names in all splits. Or leave these "
            f"classes out: list only the remaining ones in dataset.classes."
        )


def table_hint(folder: Path) -> str:
    """Return what to do if a table lies in a folder or beside it, or an empty text."""
    for place in (folder, folder.resolve().parent):
        if tables := find_tables(place)[:3]:
            inside = place == folder
            step = "set" if inside else f"set dataset.path={place} and"
            return (
                f"The labels may be in {', '.join(tables)}{'' if inside else f' in {place}'}: "
                f"{step} dataset.table={tables[0]}."
            )
    return "If a table has the labels, put it into this folder and set dataset.table."


def check_unused(key: str, labels: Labels, maximum: float) -> None:
    """Check that not too many images are unused that a person would expect to be used.

    Raises:
        InputError: their share of all such images is larger than `maximum`.
    """
    lost = [item for item in labels.unused if item.kind in EXPECTED]
    total = len(lost) + len({image.path for image in labels.images})
    if len(lost) <= maximum * total:
        return
    lines = "\n  ".join(summarize_unused(lost, at_most=10))
    used = {image.path.split("/")[0] for image in labels.images}
    places = sorted({item.path.split("/")[0] for item in lost} - used)
    pattern = f"/{escaped(places[0])}" if places else "PATTERN"
    advice = [
        f"To leave them out on purpose, list them: {key}.exclude=[{pattern}]. Or increase "
        f"{key}.maximum_unused."
    ]
    if any(item.kind == LINK for item in lost):
        advice.append(
            f"To follow links, name the folder that they lead to: {key}.links_into=/path; or copy "
            f"the dataset with `cp -rL`."
        )
    if not dicom.AVAILABLE and any(item.path.lower().endswith(".dcm") for item in lost):
        advice.append(f"To read DICOM files, run {dicom.INSTALL}.")
    raise InputError(
        f"{len(lost)} of {total} images would not be used, more than {key}.maximum_unused="
        f"{maximum:g} allows:\n  {lines}\n" + "\n".join(advice)
    )
