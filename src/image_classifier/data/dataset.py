"""The prepared dataset: every image of the manifest, decoded, on disk."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from image_classifier.config.compose import flatten
from image_classifier.config.schema import Config
from image_classifier.data.images import Pixels
from image_classifier.data.labels import SplitName
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.records import read_record


@dataclass(frozen=True)
class PreparedDataset:
    """Every image of the manifest, decoded.

    It reads the file that it opened: if a stage prepares the images again, it writes a new file.

    Attributes:
        rows: The manifest.
        images_file: The .npy file of `images`.
        labels: int64 array of shape (rows,): index into `classes`.
        classes: Names; of two, the second is the positive class.
        digest: SHA-256 of the manifest, hexadecimal.
        source: Where the images came from: `source`, `commit`, `digest`.
        scale: The values that became 0 and 255 in images with more than 8 bits; None without such.
    """

    rows: list[ImageRow]
    images_file: Path
    labels: npt.NDArray[np.int64]
    classes: list[str]
    digest: str
    source: dict[str, Any]
    scale: tuple[float, float] | None = None

    @property
    def images(self) -> Pixels:
        """The images on disk: uint8 array of shape (rows, height, width, channels).

        Each access maps the file again: the pages of a mapping that is kept would count as this
        process's memory, up to the size of the file.
        """
        file, dtype, shape, start = self._opened
        return np.memmap(file, dtype, "r", start, shape)

    @cached_property
    def _opened(self) -> tuple[BinaryIO, np.dtype[Any], tuple[int, ...], int]:
        file = self.images_file.open("rb")
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return file, dtype, shape, file.tell()

    def with_fold(self, fold: int, folds: int) -> "PreparedDataset":
        """Return the dataset with the images of a fold as its validation split.

        Args:
            fold: Counted from 0.
            folds: Their number.

        Raises:
            InputError: there is no such fold.
        """
        if fold >= folds:
            raise InputError(
                f"training.fold={fold}: the folds are 0 to {folds - 1}. split.folds is their "
                f"number."
            )
        if not any(row.fold == fold for row in self.rows):
            raise InputError(
                f"training.fold={fold}: the images have no folds, because a class has fewer than "
                f"split.folds={folds} images or groups. Set a smaller split.folds: dvc repro split "
                f"says how many the class has."
            )
        rows = [replace(row, split=row.split_in(fold)) for row in self.rows]
        return replace(self, rows=rows)

    def indices(self, split: SplitName) -> npt.NDArray[np.int64]:
        """Return the row numbers of one split, int64, in the manifest's order."""
        return np.flatnonzero([row.split == split for row in self.rows])


def load_prepared(config: Config) -> PreparedDataset:
    """Open the output of fetch, split and prepare; the images stay on disk.

    Raises:
        InputError: a stage has not run, or it ran with other settings than `config`.
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
            + ". Use the same dataset, split and image settings as `dvc repro prepare` did, or "
            "prepare and train with the new ones: `dvc exp run -S …`."
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
        scale=tuple(prepared["scale"]) if prepared.get("scale") else None,
    )
    try:
        complete = dataset.images.shape == (len(rows), *config.image.shape)
    except (OSError, ValueError):
        complete = False
    if not complete:
        raise InputError(f"{paths.IMAGES} is damaged: run `dvc repro -f -s prepare`.")
    if config.training.fold is not None:
        return dataset.with_fold(config.training.fold, config.split.folds)
    return dataset
