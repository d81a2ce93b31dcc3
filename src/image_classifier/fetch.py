"""fetch: brings a dataset into build/raw, and writes down where it came from.

Takes a local folder (`dataset.path`) or a git repository (`dataset.url`, `dataset.revision`,
`dataset.subfolder`). Gives build/raw and build/fetch.json.
"""

import hashlib
import shutil
from pathlib import Path

from image_classifier import paths
from image_classifier.command_line import run_stage
from image_classifier.data import sources
from image_classifier.data.folders import find_images, order_classes, told
from image_classifier.data.manifest import count
from image_classifier.errors import InputError
from image_classifier.records import write_record
from image_classifier.schema import Config, Dataset

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
        InputError: it cannot be had, is no folder of class folders, lacks the positive class, or
            has another number of images than `dataset.expected_counts`.
        OSError: a file cannot be read or written. The former dataset is still there then.
    """
    if config.dataset.path is not None:  # of a repository, split says so: the download stays
        found, _ = find_images(Path(config.dataset.path))
        order_classes({image.label for image in found}, config.dataset.positive_class)
    work = paths.RAW.with_name("raw.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        copied = sources.copy("dataset", config.dataset, work / "images")
        counts = count(copied.images)
        check_counts(config.dataset, counts)
        source = config.dataset.url or config.dataset.path
        write_record(
            paths.FETCHED,
            config,
            SETTINGS,
            source=source,
            commit=copied.commit,
            digest=folder_digest([image.path for image in copied.images], work / "images"),
            counts=counts,
            passed_over={item.path: item.reason for item in copied.passed_over},
        )
        # last, and by renaming: only a whole dataset ever has this name
        if paths.RAW.exists():
            paths.RAW.rename(work / "former")
        (work / "images").rename(paths.RAW)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    at = f" at {copied.commit}" if copied.commit else ""
    print(f"{len(copied.images)} images from {source}{at}")
    for split, classes in counts.items():
        print(f"  {split}: " + ", ".join(f"{number} {label}" for label, number in classes.items()))
    if copied.passed_over:
        print(told(copied.passed_over))


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
