"""Finds duplicate images, and which images must stay together in one split."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from image_classifier.data.images import ImageFacts, Pixels, UnreadableImage, inspect
from image_classifier.project.files import read_bytes

SIDE = 24  # a perceptual hash has SIDE * SIDE = 576 bits


@dataclass(frozen=True)
class Pair:
    """Two images that belong together.

    Attributes:
        first: Position of the first image in a list.
        second: Position of the second image.
        kind: `exact duplicate`, `near duplicate` or `same group`.
        distance: How many of the 576 bits of their perceptual hashes differ.
    """

    first: int
    second: int
    kind: str
    distance: int


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an image file and its duplicates; `size` is in bytes."""

    sha256: str
    perceptual_hash: str
    size: int
    facts: ImageFacts


def fingerprint(path: Path) -> Fingerprint | UnreadableImage:
    """Return the fingerprint of an image file, or why it is unreadable.

    Raises:
        OSError: the file cannot be read.
    """
    content = read_bytes(path)
    try:
        facts, pixels = inspect(content)
    except UnreadableImage as error:
        return error
    digest = hashlib.sha256(content).hexdigest()
    return Fingerprint(digest, perceptual_hash(pixels), len(content), facts)


def perceptual_hash(pixels: Pixels) -> str:
    """Return the perceptual hash of a grey image, 576 bits as 144 hexadecimal digits.

    It consists of the signs of the image's low frequencies, which scaling and compression keep
    (`imagehash.phash`: https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html).
    The usual 64 bits cannot tell chest X-rays apart. Among 558 X-rays and 280 phantoms, copies
    with half the size, with JPEG quality 80, or with other brightness and contrast differ in at
    most 54 bits; different X-rays differ in at least 164, different phantoms in at least 78. The
    default of `split.duplicate_distance`, 58, lies between. A copy cropped by 2% is not found.

    Args:
        pixels: uint8 array of shape (120, 120, 1).
    """
    image = Image.fromarray(pixels[:, :, 0])
    return str(imagehash.phash(image, hash_size=SIDE, highfreq_factor=len(pixels) // SIDE))


def find_pairs(
    digests: Sequence[str], hashes: Sequence[str], groups: Sequence[str], distance: int
) -> list[Pair]:
    """Return the pairs of images that are duplicates, or of the same group, in order.

    Args:
        digests: SHA-256 of each file.
        hashes: Perceptual hash of each image.
        groups: Name of each image's group, or empty.
        distance: Two images are duplicates when at most this many of 576 bits differ.
    """
    pairs = {}
    for first, second, bits in _near(hashes, distance):
        kind = "exact duplicate" if digests[first] == digests[second] else "near duplicate"
        pairs[first, second] = Pair(first, second, kind, bits)
    previous: dict[str, int] = {}
    for index, group in enumerate(groups):
        if group:
            if (before := previous.get(group)) is not None:
                bits = _bits_between(hashes[before], hashes[index])
                pairs.setdefault((before, index), Pair(before, index, "same group", bits))
            previous[group] = index
    return [pairs[key] for key in sorted(pairs)]


def component_ids(pairs: Sequence[Pair], images: int) -> npt.NDArray[np.int32]:
    """Return a number for each image; images that pairs connect have the same number.

    Returns:
        int32 array of shape (images,), counted from 0 in the order of each component's first image.
    """
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(images, images))
    numbers: npt.NDArray[np.int32] = connected_components(links, directed=False)[1]
    return numbers


def _near(hashes: Sequence[str], distance: int) -> Iterator[tuple[int, int, int]]:
    bits = np.array([_bits(text) for text in hashes], np.float32).reshape(-1, SIDE * SIDE)
    signs = 2 * bits - 1
    for start in range(0, len(signs), 1024):  # in parts: all distances may not fit into memory
        # the product of two signs is 1 where bits agree and -1 where they differ
        distances = (SIDE * SIDE - signs[start : start + 1024] @ signs.T) / 2
        for row, second in np.argwhere(distances <= distance):
            if start + row < second:
                yield int(start + row), int(second), int(distances[row, second])


def _bits(text: str) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = imagehash.hex_to_hash(text).hash
    return found.ravel()


def _bits_between(first: str, second: str) -> int:
    return int(imagehash.hex_to_hash(first) - imagehash.hex_to_hash(second))
