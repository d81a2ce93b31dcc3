"""What is worth a look in a dataset: images unlike the others, copies, large groups.

`split` writes one table, findings.csv; later stages read it, and add findings of their own. A
finding changes nothing by itself: the image stays in the dataset until a person writes it into
corrections.csv or removes it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from image_classifier.data.depth import is_deep
from image_classifier.data.labels import SPLITS, SplitName
from image_classifier.data.leaks import ScannedImage
from image_classifier.data.near_duplicates import PLAIN, Pair
from image_classifier.project import paths
from image_classifier.project.tables import read_rows, write_rows
from image_classifier.project.text import counted

Kind = Literal[
    "blank", "dark", "bright", "blurred", "odd size", "odd aspect ratio", "exact copy", "near copy",
    "large group", "suspected label",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

FEWEST = 20  # with fewer images nobody can say what is usual
# A value is an outlier when it is further from the median than 3.5 standard deviations, which are
# estimated by 1.4826 times the median absolute deviation: Iglewicz and Hoaglin, How to Detect and
# Handle Outliers, 1993.
DEVIATIONS = 3.5
ALIKE = 0.05  # a value that a larger share of the images has nearly is how the dataset is

# Absolute conditions. Measured with 25 images each of 280 phantoms, 558 X-rays and 1,877
# photographs of clothing: see the test, and the limits of `sharpness_of`.
BLANK = 3.0  # contrast in grey levels, and ...
BLANK_SHARE = 0.1  # ... at most this share of the median contrast
DARK, BRIGHT = 50, 205  # brightness, of 255
FACTOR = 2.0  # light, its lack, or sharpness is at most half of the median
PIXELS = 4.0  # four times the median number of pixels, or a quarter
ASPECT = 1.5  # long side by short side, so many times the median

LARGE_GROUP = 0.1  # share of the images of a split or class

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """Something about one image that a person should look at.

    Attributes:
        path: The image's path in the dataset, with slashes; of a group, its first image.
        label: Its class.
        split: Its split.
        kind: What was found.
        detail: The numbers, as a short text.
    """

    path: str
    label: str
    split: SplitName
    kind: Kind
    detail: str


def find(
    images: Sequence[ScannedImage], splits: Mapping[int, SplitName], pairs: Sequence[Pair]
) -> list[Finding]:
    """Return the findings about the images of the manifest, sorted by kind and path.

    Args:
        images: All readable images.
        splits: The split of each image that is in the manifest, by position.
        pairs: The images that belong together, of `near_duplicates.find_pairs`.
    """
    kept = sorted(splits)
    details: list[tuple[int, Kind, str]] = [
        *unlike_the_others([images[index] for index in kept], kept),
        *copies(images, splits, pairs),
        *large_groups(images, splits),
    ]
    found = [
        Finding(images[index].path, images[index].found.label, splits[index], kind, detail)
        for index, kind, detail in details
    ]
    return sorted(found, key=lambda finding: (KINDS.index(finding.kind), finding.path))


def unlike_the_others(
    images: Sequence[ScannedImage], positions: Sequence[int]
) -> list[tuple[int, Kind, str]]:
    """Return the images whose light, sharpness or size is far from what the dataset has.

    An outlier of the dataset must also be dark, bright, blurred or of an odd size by itself, so
    that X-rays, which are dark by nature, do not count as dark. Dark, bright and blurred images are
    searched among those with 8 bits per channel: the others have no brightness before `prepare`
    has found their scale.

    Args:
        images: The images.
        positions: What to return for each of them.

    Returns:
        Position, kind and detail of each.
    """
    files = [image.fingerprint for image in images]
    brightness = np.array([file.brightness for file in files])
    contrast = np.array([file.contrast for file in files])
    sharpness = np.array([file.sharpness for file in files])
    deep = np.array([is_deep(f.facts.mode) or f.facts.format == "DICOM" for f in files], bool)
    found: list[tuple[int, Kind, str]] = []

    def add(kind: Kind, chosen: Mask, detail: Callable[[int], str]) -> None:
        found.extend(
            (positions[index], kind, detail(index)) for index in np.flatnonzero(chosen).tolist()
        )

    dark = bright = blurred = np.zeros(len(files), bool)
    seen = np.flatnonzero((contrast >= PLAIN) & ~deep)
    if len(seen) >= FEWEST:
        light, sharp = brightness[seen], sharpness[seen]
        median_light, median_sharp = float(np.median(light)), float(np.median(sharp))

        def among_all(chosen: Mask) -> Mask:
            return np.isin(np.arange(len(files)), seen[chosen])

        def of_light(index: int) -> str:
            return f"brightness {brightness[index]:.0f} of 255, the median is {median_light:.0f}"

        dark = among_all((light < DARK) & outliers(np.log(light + 1), np.log(FACTOR), "low"))
        bright = among_all((light > BRIGHT) & outliers(np.log(256 - light), np.log(FACTOR), "low"))
        # what is nearly black or white has no detail
        blurred = among_all(outliers(np.log(sharp), np.log(FACTOR), "low")) & ~dark & ~bright
        add("dark", dark, of_light)
        add("bright", bright, of_light)
        add(
            "blurred",
            blurred,
            lambda i: f"sharpness {sharpness[i]:.3f}, the median is {median_sharp:.3f}",
        )
    usual = float(np.median(contrast)) if files else 0.0
    flat = (contrast < BLANK) & (contrast < BLANK_SHARE * usual) & ~dark & ~bright & ~blurred
    add(
        "blank",
        flat | (contrast < PLAIN),
        lambda i: f"contrast {contrast[i]:.1f} grey levels, the median is {usual:.0f}",
    )
    if len(files) >= FEWEST:
        width = np.array([file.facts.width for file in files], float)
        height = np.array([file.facts.height for file in files], float)
        size = width * height
        # whichever way the camera was turned; the file does not say it where EXIF does
        aspect = np.maximum(width, height) / np.minimum(width, height)
        median_size, median_aspect = float(np.median(size)), float(np.median(aspect))
        add(
            "odd size",
            outliers(np.log(size), np.log(PIXELS)),
            lambda i: (
                f"{width[i]:.0f} x {height[i]:.0f} pixels, {size[i] / median_size:.2g} times the "
                f"median number of pixels"
            ),
        )
        add(
            "odd aspect ratio",
            outliers(np.log(aspect), np.log(ASPECT)),
            lambda i: (
                f"{width[i]:.0f} x {height[i]:.0f} pixels, the long side is {aspect[i]:.2f} times "
                f"the short one, the median is {median_aspect:.2f}"
            ),
        )
    return found


def outliers(values: Floats, least: float, side: Literal["low", "both"] = "both") -> Mask:
    """Return which values are far from the median, and have few others near them.

    Args:
        values: float array of shape (images,), on a logarithmic scale.
        least: The smallest difference from the median that counts. Values that differ by at most
            half of it are alike.
        side: Whether high values count, too.

    Returns:
        bool array of shape (images,).
    """
    difference = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(difference)))
    limit = max(least, DEVIATIONS * spread)
    far = difference < -limit if side == "low" else np.abs(difference) > limit
    ordered = np.sort(values)
    alike = np.searchsorted(ordered, values + least / 2, "right") - np.searchsorted(
        ordered, values - least / 2, "left"
    )
    few: Mask = alike <= ALIKE * len(values)
    return far & few


def copies(
    images: Sequence[ScannedImage], splits: Mapping[int, SplitName], pairs: Sequence[Pair]
) -> list[tuple[int, Kind, str]]:
    """Return each image of the manifest that has a copy there, with the copy most like it."""
    best: dict[int, tuple[int, int]] = {}  # distance, -1 for an exact copy; the other image
    for pair in pairs:
        if pair.kind == "same group" or not {pair.first, pair.second} <= splits.keys():
            continue
        distance = -1 if pair.kind == "exact duplicate" else pair.distance
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            best[one] = min(best.get(one, (distance, other)), (distance, other))
    found: list[tuple[int, Kind, str]] = []
    for index, (distance, other) in best.items():
        label = images[other].found.label
        name = images[other].path
        if label != images[index].found.label:
            name += f" ({label})"
        if distance < 0:
            found.append((index, "exact copy", f"exact copy of {name}"))
        else:
            found.append(
                (index, "near copy", f"near copy of {name}, {distance} of 576 bits differ")
            )
    return found


def large_groups(
    images: Sequence[ScannedImage], splits: Mapping[int, SplitName]
) -> list[tuple[int, Kind, str]]:
    """Return the first image of each group that is a large part of a split or class.

    The images of a group are not independent, so such a split or class says less than its number
    of images suggests.
    """
    places: dict[str, list[int]] = {}
    for index in sorted(splits):
        places.setdefault(splits[index], []).append(index)
        places.setdefault(f"class {images[index].found.label}", []).append(index)
    texts: dict[str, list[str]] = {}
    for place, members in places.items():
        groups = Counter(images[index].group for index in members)
        alone = {images[i].fingerprint.sha256 for i in members if not images[i].group}
        independent = len(groups.keys() - {""}) + len(alone)
        for group, number in groups.items():
            if group and number > 1 and number > LARGE_GROUP * len(members):
                texts.setdefault(group, []).append(
                    f"{number} of {len(members)} images of {place}, which has "
                    f"{counted(independent, 'independent group')}"
                )
    first: dict[str, int] = {}
    for index in sorted(splits):
        first.setdefault(images[index].group, index)
    return [
        (first[group], "large group", f"group {group}: " + "; ".join(parts))
        for group, parts in texts.items()
    ]


def count_findings(findings: Sequence[Finding]) -> dict[str, dict[str, int]]:
    """Return the number of findings of each kind in each split; kinds without any are left out."""
    counts = Counter((finding.kind, finding.split) for finding in findings)
    return {
        kind: {split: counts[kind, split] for split in SPLITS if counts[kind, split]}
        for kind in KINDS
        if any(counts[kind, split] for split in SPLITS)
    }


def summarize_findings(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each kind of finding: the number and an example; and the file."""
    if not findings:
        return ["findings: none"]
    kinds: dict[Kind, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    lines = [f"findings, all in {paths.FINDINGS}:"]
    for kind, items in kinds.items():
        lines.append(f"  {kind}: {len(items)}, e.g. {items[0].path}: {items[0].detail}")
    return lines


def write_findings(findings: Sequence[Finding], path: Path) -> None:
    """Write a CSV file with one row for each finding."""
    write_rows(findings, Finding, path)


def read_findings(path: Path = paths.FINDINGS) -> list[Finding]:
    """Read what `write_findings` wrote.

    Raises:
        InputError: split has not run, or the file is damaged.
    """
    return read_rows(path, "split", Finding, _finding)


def _finding(row: dict[str, str]) -> Finding:
    if row["kind"] not in KINDS or row["split"] not in SPLITS:
        raise ValueError(f"the row of {row['path']} is not a finding")
    return Finding(**row)  # type: ignore[arg-type]
