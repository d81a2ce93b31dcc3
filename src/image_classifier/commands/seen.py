"""seen: tells which trainings have used an image, exactly or as a near copy.

    image-classifier seen chest.jpg folder/

Searches the manifests of all trainings of the MLflow store, those of deleted runs too. The same
file is found by its SHA-256, a near copy by its perceptual hash (split.duplicate_distance).

The exit code is 0 if no training has trained or validated on any of the images, 3 if one has, and
1 if that is not certain: a file is not an image, or a manifest cannot be read.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from image_classifier.config.compose import load
from image_classifier.data.folders import find_files
from image_classifier.data.labels import SPLITS
from image_classifier.data.near_duplicates import SCENE_IMAGES, Fingerprint, fingerprint
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.text import counted

if TYPE_CHECKING:
    from image_classifier.tracking.seen import Matches, Training, Use

SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}
LISTED = 10  # versions, and runs, in a line
SEEN, NOT_CERTAIN = 3, 1  # exit codes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sources", nargs="+", type=paths.expanded, help="image files, or folders with images"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    distance = load().split.duplicate_distance
    names = list(dict.fromkeys(find_files(arguments.sources)))
    files, skipped = read_files(names)

    from image_classifier.tracking import connection, seen  # import MLflow

    with connection.require_mlflow():
        trainings, holders = seen.find_trainings()
        if not trainings:
            raise InputError(
                f"{connection.public_uri()} has no training, so it cannot say what was seen. Set "
                f"MLFLOW_TRACKING_URI to the store that has the runs."
            )
        matches: list[dict[str, Matches]] = [{} for _ in files]
        unreadable: dict[str, str] = {}
        wanted = {split.manifest_digest for training in trainings for split in training.splits}
        for digest in tqdm(sorted(wanted), "Reading manifests", disable=None):
            try:
                rows = seen.read_from(holders.get(digest, ()), digest)
            except InputError as error:
                unreadable[digest] = str(error)
                continue
            found = seen.match(list(files.values()), rows, distance)
            for of_file, here in zip(matches, found, strict=True):
                of_file[digest] = here
    unknown = [
        training
        for training in trainings
        if training.lost_start
        or any(split.manifest_digest in unreadable for split in training.splits)
    ]
    strongest = []
    for (path, file), of_file in zip(files.items(), matches, strict=True):
        uses = [(training, seen.use_of(training, of_file)) for training in trainings]
        used = [(training, use) for training, use in uses if use]
        strongest.append(min((use.rank for _, use in used), default=len(SPLITS)))
        print("\n".join(describe(path, file, used, len(trainings), len(unknown), distance)))
    if len(files) > 1:
        print(total(strongest))
    for line in what_is_missing(unknown, unreadable):
        print(line, file=sys.stderr)
    if skipped:
        print(f"{skipped} of {len(names)} files skipped.", file=sys.stderr)
    if skipped or unknown:
        return NOT_CERTAIN
    return SEEN if any(rank < SPLITS.index("test") for rank in strongest) else 0


def read_files(names: Sequence[Path]) -> tuple[dict[Path, Fingerprint], int]:
    """Return the fingerprints of the files that are images, and the number of the others."""
    files: dict[Path, Fingerprint] = {}
    with ThreadPoolExecutor() as pool:
        bar = tqdm(pool.map(fingerprint, names), "Reading images", len(names), disable=None)
        for path, read in zip(names, bar, strict=True):
            if isinstance(read, UnreadableImage):
                bar.write(f"skipped {path}: {read}", file=sys.stderr)
            else:
                files[path] = read
    return files, len(names) - len(files)


def describe(
    path: Path,
    file: Fingerprint,
    used: Sequence[tuple["Training", "Use"]],
    trainings: int,
    unknown: int,
    distance: int | None,
) -> list[str]:
    """Return what is known of a file, as lines.

    Args:
        path: The file.
        file: Its fingerprint.
        used: The trainings that used it, and how.
        trainings: How many there are in the store.
        unknown: Of how many of them the images are not known.
        distance: `split.duplicate_distance`.
    """
    limit = ""
    if distance is None:
        limit = " Only exact copies were searched for (split.duplicate_distance=null)."
    elif not file.perceptual_hash:
        limit = " It is plain, so only exact copies were searched for."
    if not used:
        known = trainings - unknown
        rest = f" Of {unknown} others it is not known, see below." if unknown else ""
        return [f"{path}: not seen by any of the {known} trainings in this store.{rest}{limit}"]
    groups: dict[tuple[int, bool, bool, bool, bool], list[tuple[Training, Use]]] = {}
    for training, use in used:
        key = use.rank, use.not_exact, use.inherited, not use.fold_known, use.scene
        groups.setdefault(key, []).append((training, use))
    lines = [f"{path}:{limit}"]
    for key in sorted(groups):
        who = names_of([training for training, _ in groups[key]])
        lines.append(f"  {how(min(use for _, use in groups[key]))} {who}")
    return lines


def how(use: "Use") -> str:
    """Return how a training used an image, as the beginning of a sentence."""
    split = SPLIT_NAMES[use.split]
    if not use.fold_known and use.split != "test":
        split = "training or validation"  # its run is gone, and with it the fold
    these = "of those whose weights these started from" if use.inherited else "of"
    place = f"in the {split} images {these}"
    if use.scene:
        return (
            f"at least {SCENE_IMAGES} images look like it, as frames of a fixed camera do, so it "
            f"may be another frame; the nearest, {use.path} ({use.bits} of 576 bits differ), is "
            f"{place}"
        )
    if use.not_exact:
        return f"a near copy, {use.path} ({use.bits} of 576 bits differ), is {place}"
    return f"exactly this image, {use.path}, is {place}"


def names_of(trainings: Sequence["Training"]) -> str:
    """Return the names of the trainings' versions, and of the runs that have none."""
    versions: dict[str, list[tuple[int, str]]] = {}
    without = []
    for training in trainings:
        state = f" ({training.state})" if training.state else ""
        for name, number in training.versions:
            versions.setdefault(name, []).append((number, state))
        if not training.versions:
            without.append(f"{training.run_id}{state}")
    parts = []
    for name, numbers in sorted(versions.items()):
        texts = [f"{number}{state}" for number, state in sorted(numbers)]
        parts.append(f"{counted(len(texts), 'version')} of {name}: {listed(texts)}")
    if without:
        parts.append(f"{counted(len(without), 'run')} without a version: {listed(without)}")
    return "; ".join(parts)


def total(strongest: Sequence[int]) -> str:
    """Return how many images were used in which way.

    Args:
        strongest: For each image the position in `SPLITS` of its strongest use; `len(SPLITS)` for
            none.
    """
    counts = [strongest.count(rank) for rank in range(len(SPLITS) + 1)]
    parts = [
        f"{count} in {SPLIT_NAMES[name]} images"
        for name, count in zip(SPLITS, counts[:-1], strict=True)
    ]
    return f"{len(strongest)} images: {', '.join(parts)}, {counts[-1]} not seen."


def what_is_missing(unknown: Sequence["Training"], unreadable: Mapping[str, str]) -> list[str]:
    """Return of which trainings the images are not known, and why.

    Args:
        unknown: The trainings.
        unreadable: Why a manifest cannot be read, by its digest.
    """
    if not unknown:
        return []
    reasons: dict[str, list[Training]] = {}
    for training in unknown:
        reason = next(
            (
                f"their manifest cannot be read: {unreadable[split.manifest_digest]}"
                for split in training.splits
                if split.manifest_digest in unreadable
            ),
            f"they started from run {training.lost_start}, which MLflow does not have",
        )
        reasons.setdefault(reason, []).append(training)
    lines = [
        f"Not known of {counted(len(trainings), 'training')}, because {reason}: "
        f"{names_of(trainings)}"
        for reason, trainings in reasons.items()
    ]
    return [*lines, "So an image that is `not seen` may still have been used by these."]


def listed(texts: Sequence[str]) -> str:
    """Return the first texts, and how many more there are."""
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return ", ".join(texts[:LISTED]) + more
