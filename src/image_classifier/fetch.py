"""fetch: brings a dataset into build/raw, and writes down where it came from.

Takes a local folder (`dataset.path`) or a git repository (`dataset.url`, `dataset.revision`,
`dataset.subfolder`). Gives build/raw and build/fetch.json.
"""

import hashlib
import shutil
from pathlib import Path

from image_classifier import paths, sources
from image_classifier.command_line import run_stage
from image_classifier.config import Config, Dataset
from image_classifier.dataset import count, find_images, write_record
from image_classifier.errors import InputError

SETTINGS = [
    "dataset.path",
    "dataset.url",
    "dataset.revision",
    "dataset.subfolder",
    "dataset.expected_counts",
]


def fetch(config: Config) -> None:
    """Copy the dataset to build/raw.

    Raises:
        InputError: it cannot be had, is no folder of class folders, or has another number of
            images than `dataset.expected_counts`.
    """
    partial = paths.RAW.with_name("raw.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(exist_ok=True)
    try:
        commit = sources.copy("dataset", config.dataset, partial)
        images = find_images(partial)
        counts = count(images)
        check_counts(config.dataset, counts)
        digest = folder_digest([image.path for image in images], partial)
        shutil.rmtree(paths.RAW, ignore_errors=True)
        partial.rename(paths.RAW)  # only a whole dataset ever has this name
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    source = config.dataset.url or config.dataset.path
    write_record(
        paths.FETCHED, config, SETTINGS, source=source, commit=commit, digest=digest, counts=counts
    )
    print(f"{len(images)} images from {source}" + (f" at {commit}" if commit else ""))
    for split, classes in counts.items():
        print(f"  {split}: " + ", ".join(f"{number} {label}" for label, number in classes.items()))


def check_counts(dataset: Dataset, counts: dict[str, dict[str, int]]) -> None:
    """Compare the number of images with `dataset.expected_counts`, where given.

    Raises:
        InputError: they differ.
    """
    for split, expected in (dataset.expected_counts or {}).items():
        found = sum(counts.get(split, {}).values())
        if found != expected:
            raise InputError(
                f"{split}/ has {found} images, expected {expected}. If this is the dataset you "
                f"want, set dataset.expected_counts.{split}={found}."
            )


def folder_digest(files: list[Path], folder: Path) -> str:
    """Return a SHA-256 over the files' relative paths and contents, in the order given."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


if __name__ == "__main__":
    run_stage(fetch)
