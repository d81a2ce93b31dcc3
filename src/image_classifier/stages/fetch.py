"""fetch: copies the dataset to build/raw, and records where it comes from.

Reads a local folder (`dataset.path`) or a git repository (`dataset.url`, `dataset.revision`,
`dataset.subfolder`). Writes build/raw and build/fetch.json.
"""

from functools import partial

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config, Dataset
from image_classifier.data import sources
from image_classifier.data.folders import order_classes, summarize_skipped
from image_classifier.data.manifest import count_images
from image_classifier.errors import InputError
from image_classifier.project import digests, paths
from image_classifier.project.files import whole_folder
from image_classifier.project.records import write_record

PARAMS = [
    "dataset.path",
    "dataset.url",
    "dataset.revision",
    "dataset.subfolder",
    "dataset.expected_counts",
]


def fetch(config: Config) -> None:
    """Copy the dataset to build/raw.

    Raises:
        InputError: the dataset cannot be read, does not consist of class folders, lacks the
            positive class, or has another number of images than `dataset.expected_counts`.
        OSError: a file cannot be read or written. The former dataset is unchanged then.
    """
    check = partial(order_classes, positive_class=config.dataset.positive_class)
    with whole_folder(paths.RAW) as folder:
        copied = sources.copy("dataset", config.dataset, folder, check)
        counts = count_images(copied.images)
        check_counts(config.dataset, counts)
        source = config.dataset.url or config.dataset.path
        write_record(
            paths.FETCHED,
            selected(config, PARAMS),
            source=source,
            commit=copied.commit,
            digest=digests.of_folder(folder),
            counts=counts,
            skipped={item.path: item.reason for item in copied.skipped},
        )
    at = f" at {copied.commit}" if copied.commit else ""
    print(f"{len(copied.images)} images from {source}{at}")
    for split, classes in counts.items():
        print(f"  {split}: " + ", ".join(f"{number} {label}" for label, number in classes.items()))
    if copied.skipped:
        print(summarize_skipped(copied.skipped))


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
