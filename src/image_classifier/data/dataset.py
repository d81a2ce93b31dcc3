"""The prepared dataset: every image of the manifest, decoded, on disk."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from image_classifier import paths
from image_classifier.config import flatten
from image_classifier.data.folders import SplitName
from image_classifier.data.images import Pixels
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.errors import InputError
from image_classifier.records import read_record
from image_classifier.schema import Config


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
            + ". To train on these images, give the settings they were prepared with here, too; to "
            "change the images, run the whole pipeline: `dvc exp run -S …`."
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
