"""fetch: copies the images of the dataset to build/raw, and finds their classes and splits.

Reads a local folder (`dataset.path`) or a git repository (`dataset.url`, `dataset.revision`,
`dataset.subfolder`). Folders or a table (`dataset.table`) say which class and split an image has.
Writes build/raw, build/labels.csv with one row for each image, build/not_used.csv with everything
else that was found, and build/fetch.json.
"""

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config, Dataset
from image_classifier.data import sources
from image_classifier.data.labels import (
    count_labels,
    count_unused,
    order_classes,
    summarize_unused,
    write_labels,
    write_unused,
)
from image_classifier.errors import InputError
from image_classifier.project import digests, paths
from image_classifier.project.files import whole_file, whole_folder
from image_classifier.project.records import write_record

PARAMS = [
    "dataset.path",
    "dataset.url",
    "dataset.revision",
    "dataset.subfolder",
    "dataset.include",
    "dataset.exclude",
    "dataset.links_into",
    "dataset.table",
    "dataset.path_column",
    "dataset.label_column",
    "dataset.split_column",
    "dataset.group_column",
    "dataset.source_column",
    "dataset.classes",
    "dataset.maximum_unused",
    "dataset.expected_counts",
]


def fetch(config: Config) -> None:
    """Copy the dataset to build/raw.

    Raises:
        InputError: the dataset cannot be read, its classes are not clear, it lacks the positive
            class, too many images would not be used, or it has another number of images than
            `dataset.expected_counts`.
        OSError: a file cannot be read or written. The former dataset is unchanged then.
    """
    check_build_folder()
    check: Callable[[set[str]], object] = partial(
        order_classes, positive_class=config.dataset.positive_class
    )
    if config.dataset.url is not None:
        check = bool  # split checks it, so that the download is not lost
    with (
        whole_file(paths.LABELS) as listed,
        whole_file(paths.UNUSED) as list_of_unused,
        whole_folder(paths.RAW) as folder,
    ):
        labels, commit = sources.copy("dataset", config.dataset, folder, check)
        counts = count_labels(labels.images)
        check_counts(config.dataset, counts)
        write_labels(labels.images, listed)
        write_unused(labels.unused, list_of_unused)
        source = config.dataset.url or config.dataset.path
        write_record(
            paths.FETCHED,
            selected(config, PARAMS),
            source=source,
            commit=commit,
            digest=digests.of_folder(folder),
            counts=counts,
            notes=labels.notes,
            unused=count_unused(labels.unused),
        )
    at = f" at {commit}" if commit else ""
    print(f"{len(labels.images)} images from {source}{at}")
    for split, classes in counts.items():
        print(f"  {split}: " + ", ".join(f"{number} {label}" for label, number in classes.items()))
    for line in [*labels.notes, *summarize_unused(labels.unused)]:
        print(line)
    if labels.unused:
        print(f"All files that are not used: {paths.UNUSED}")


def check_build_folder() -> None:
    """Raise an InputError if `build` is a link with which DVC would fail after the stage."""
    place = paths.BUILD.resolve()
    if "DVC_STAGE" not in os.environ or place.is_relative_to(Path.cwd().resolve()):
        return
    command = ["dvc", "config", "core.no_scm"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.stdout.strip().lower() != "true":
        raise InputError(
            f"{paths.BUILD} is a link to {place}, and DVC refuses outputs outside the git "
            f"repository. To keep the data on another disk, make {paths.BUILD} a folder again, and "
            f"run `dvc cache dir --local /path/on/that/disk` and `dvc config --local cache.type "
            f"symlink`. Or keep the link, and run `dvc config --local core.no_scm true`; "
            f"`dvc exp` does not work then."
        )


def check_counts(dataset: Dataset, counts: dict[str, dict[str, int]]) -> None:
    """Compare the number of images with `dataset.expected_counts`, if given.

    Raises:
        InputError: they differ.
    """
    for split, expected in (dataset.expected_counts or {}).items():
        found = sum(counts.get(split, {}).values())
        if found != expected:
            raise InputError(
                f"{split}/ has {found} images, expected {expected}. If this is the right dataset, "
                f"set dataset.expected_counts.{split}={found}."
            )
