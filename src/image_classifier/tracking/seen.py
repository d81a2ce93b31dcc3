"""Which trainings of an MLflow store used an image: found in the manifests of their runs.

Runs that were deleted in MLflow count, as long as it has their manifest. Of copies that sweeps make
of earlier trainings, only the training itself counts.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from image_classifier.data.labels import SPLITS, SplitName
from image_classifier.data.manifest import ImageRow, read_manifest
from image_classifier.data.near_duplicates import (
    SCENE_IMAGES,
    Fingerprint,
    as_words,
    differing_bits,
)
from image_classifier.errors import InputError
from image_classifier.project import digests
from image_classifier.tracking import connection, runs
from image_classifier.tracking.searches import pages, runs_everywhere

Place = tuple[SplitName, int]  # split and fold of an image in a manifest


@dataclass(frozen=True)
class Split:
    """The images of a training.

    Attributes:
        manifest_digest: See `manifest.manifest_digest`.
        fold: Of `training.fold`, or None.
        fold_known: False if the run is gone: then a training image may be a validation image.
    """

    manifest_digest: str
    fold: int | None = None
    fold_known: bool = True


@dataclass(frozen=True)
class Training:
    """A training that MLflow knows, finished or not.

    Attributes:
        run_id: Its run.
        versions: The registered versions of its model, each as name and number.
        state: `deleted run`, `unfinished run`, `run is gone` (only a version is left), or empty.
        splits: Its images; then those of the runs whose weights it started from.
        lost_start: The run whose weights it started from, directly or not, if MLflow does not have
            that run.
    """

    run_id: str
    versions: tuple[tuple[str, int], ...]
    state: str
    splits: tuple[Split, ...]
    lost_start: str = ""


@dataclass
class Matches:
    """The images of a manifest that are a file, or near copies of it.

    Attributes:
        exact: The same file, one for each split and fold.
        near: The nearest copy in each split and fold, and its number of different bits, of 576.
        alike: How many near copies there are.
    """

    exact: dict[Place, ImageRow] = field(default_factory=dict)
    near: dict[Place, tuple[int, ImageRow]] = field(default_factory=dict)
    alike: int = 0


@dataclass(frozen=True, order=True)
class Use:
    """How a training used an image; the strongest use is the smallest one.

    Attributes:
        rank: Position of the split in `SPLITS`: 0 for training.
        not_exact: Whether the image that was used is only a near copy.
        bits: How many of 576 bits of the perceptual hashes of the two differ.
        inherited: Whether the training used it only through the weights that it started from.
        path: The image that was used, in its dataset.
        fold_known: See `Split`.
        scene: Whether at least `SCENE_IMAGES` of the images are near copies, as the frames of a
            fixed camera are: then the hash cannot tell copies from other images.
    """

    rank: int
    not_exact: bool
    bits: int
    inherited: bool
    path: str
    fold_known: bool
    scene: bool

    @property
    def split(self) -> SplitName:
        """The split of the image."""
        return SPLITS[self.rank]


def find_trainings() -> tuple[list[Training], dict[str, list[str]]]:
    """Return the trainings of the store, the newest first, and where their manifests are.

    Returns:
        The trainings, and by digest of a manifest the runs that may have it.

    Raises:
        MlflowException: MLflow does not answer.
    """
    connection.connect()
    found = {run.info.run_id: run for run in runs_everywhere("tags.manifest_digest LIKE '%'")}
    versions: dict[str, list[Any]] = {}
    for version in pages(mlflow.MlflowClient().search_model_versions):
        versions.setdefault(version.run_id, []).append(version)
    tags_of: dict[str, Mapping[str, str]] = {key: run.data.tags for key, run in found.items()}
    for run_id, of_run in versions.items():
        if run_id not in found and "manifest_digest" in of_run[0].tags:
            tags_of[run_id] = of_run[0].tags
    trainings, holders = list[Training](), dict[str, list[str]]()
    for run_id, tags in tags_of.items():
        if tags.get(runs.REUSED) in tags_of:
            continue
        run = found.get(run_id)
        if run is not None:
            holders.setdefault(tags["manifest_digest"], []).append(run_id)
        names = sorted((version.name, int(version.version)) for version in versions.get(run_id, ()))
        splits, lost = _splits(run_id, tags_of, found)
        trainings.append(Training(run_id, tuple(names), _state(run), splits, lost))
    return trainings, holders


def _splits(
    run_id: str, tags_of: Mapping[str, Mapping[str, str]], found: Mapping[str, Run]
) -> tuple[tuple[Split, ...], str]:
    """Return the images of a training and of those it started from, and a run that is lost."""
    splits: list[Split] = []
    ancestor: str | None = run_id
    while ancestor:
        tags, run = tags_of.get(ancestor), found.get(ancestor)
        if tags is None:
            return tuple(splits), ancestor
        fold = run.data.params.get("training.fold", "None") if run else "None"
        number = None if fold == "None" else int(fold)
        splits.append(Split(tags["manifest_digest"], number, fold_known=run is not None))
        ancestor = tags.get(runs.STARTED_FROM)
    return tuple(splits), ""


def _state(run: Run | None) -> str:
    if run is None:
        return "run is gone"
    if run.info.lifecycle_stage == "deleted":
        return "deleted run"
    return "" if run.info.status == "FINISHED" else "unfinished run"


def read_from(holders: Sequence[str], digest: str) -> list[ImageRow]:
    """Return a manifest from the first run that still has it.

    Args:
        holders: Runs.
        digest: The SHA-256 that the manifest must have.

    Raises:
        InputError: none of them has it; the text is the reason of the last one.
        MlflowException: MLflow does not answer.
    """
    reason = "no run has it"
    for run_id in holders:
        with tempfile.TemporaryDirectory() as folder:
            try:
                client = mlflow.MlflowClient()
                file = Path(client.download_artifacts(run_id, "data/manifest.csv", folder))
                if digests.of_file(file) != digest:
                    reason = "it is damaged"
                    continue
                return read_manifest(file)
            except InputError:
                reason = "another version of this package wrote it"
            except MlflowException as error:
                if not connection.is_refusal(error):
                    raise
                reason = "it is not stored"
            except OSError:
                reason = "it is not stored"
    raise InputError(reason)


def match(
    files: Sequence[Fingerprint], rows: Iterable[ImageRow], distance: int | None
) -> list[Matches]:
    """Return for each file which images of a manifest it is, or is a near copy of.

    Args:
        files: Fingerprints of the files.
        rows: The manifest.
        distance: Near copies differ in at most so many of 576 bits; None: no search for them.
    """
    found = [Matches() for _ in files]
    by_digest: dict[str, list[ImageRow]] = {}
    hashed = []
    for row in rows:
        by_digest.setdefault(row.sha256, []).append(row)
        if row.perceptual_hash:
            hashed.append(row)
    table = as_words([row.perceptual_hash for row in hashed])
    for file, matches in zip(files, found, strict=True):
        for row in by_digest.get(file.sha256, ()):
            matches.exact.setdefault((row.split, row.fold), row)
        if distance is None or not file.perceptual_hash:
            continue
        bits = differing_bits(file.perceptual_hash, table)
        for index in np.flatnonzero(bits <= distance):
            row, place = hashed[index], (hashed[index].split, hashed[index].fold)
            if row.sha256 == file.sha256:
                continue
            matches.alike += 1
            if place not in matches.near or bits[index] < matches.near[place][0]:
                matches.near[place] = int(bits[index]), row
    return found


def use_of(training: Training, matches: Mapping[str, Matches]) -> Use | None:
    """Return how a training used an image; None if it did not.

    Args:
        training: The training.
        matches: By digest of a manifest, the images in it that match; without those that cannot be
            read.
    """
    uses = []
    for number, split in enumerate(training.splits):
        found = matches.get(split.manifest_digest, Matches())
        scene = found.alike >= SCENE_IMAGES
        candidates = [(False, 0, row) for row in found.exact.values()]
        if not (scene and candidates):
            candidates += [(True, bits, row) for bits, row in found.near.values()]
        for not_exact, bits, row in candidates:
            rank = SPLITS.index(row.split_in(split.fold))
            uses.append(
                Use(
                    rank, not_exact, bits, number > 0, row.path, split.fold_known,
                    scene and not_exact,
                )
            )  # fmt: skip
    return min(uses, default=None)
