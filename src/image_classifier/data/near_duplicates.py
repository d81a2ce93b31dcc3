"""Finds duplicate images, and which images must stay together in one split.

Two images are near duplicates when their perceptual hashes nearly agree. A hash sees what is large
in an image. Where many images agree in that, as those of a fixed camera do, they are compared again
without what they have in common.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from image_classifier.data.images import (
    ImageFacts,
    Pixels,
    Rendering,
    inspect,
    is_two_valued,
)
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.project.files import read_bytes

SIDE = 24  # a perceptual hash has SIDE * SIDE = 576 bits
FIRST_BITS = 192  # compared first: a third of the work excludes nearly all pairs
# Grey levels. The hash of an image with a smaller standard deviation consists of noise.
PLAIN = 1.0
PAIRS_PER_IMAGE = 20  # bounds the memory where thousands of images are alike
ROWS, COLUMNS = 512, 8192  # a block of the table of all distances

# A set of similar images is a scene when it has so many images, and such a share of all.
SCENE_IMAGES, SCENE_SHARE = 10, 0.05
CLOSE = 64  # side of the images that are compared more closely, in pixels
CLOSE_VIEW = Rendering(CLOSE, CLOSE, 3, scale="own")
# Measured on drawn scenes of a fixed camera (benchmarks/scenes.md): with sensor noise of 6 grey
# levels, different frames correlate by at most 0.38, and copies with JPEG quality 80, half the size
# or other brightness by at least 0.61. With less noise, some of these copies are below the limit.
COPY_CORRELATION = 0.6
SAMPLE = 500  # images whose median is a scene's background
DEPTH = 4  # how often a scene is divided into scenes

# Measured on phantoms and drawn scenes (benchmarks/scenes.md): at most 3.0 for copies with half the
# size or JPEG quality 30 to 80; above 8 for 77 of 80 pairs with and without an object of 5% of the
# side.
LOCAL_CHANGE = 8.0

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]  # perceptual hashes, 9 numbers each


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
    """What identifies an image file and its duplicates.

    Attributes:
        sha256: Of the file, hexadecimal.
        perceptual_hash: 144 hexadecimal digits; empty for a plain image.
        size: Of the file, in bytes.
        facts: Format, mode and size.
        two_valued: Whether almost all pixels have one of two values, as in a mask.
        brightness: Mean of the small grey copy, 0 to 255.
        contrast: Its standard deviation, in grey levels.
        sharpness: See `sharpness_of`.
    """

    sha256: str
    perceptual_hash: str
    size: int
    facts: ImageFacts
    two_valued: bool
    brightness: float
    contrast: float
    sharpness: float


def fingerprint(path: Path) -> Fingerprint | UnreadableImage:
    """Return the fingerprint of an image file, or why it is unreadable.

    Raises:
        OSError: the file cannot be read.
    """
    content = read_bytes(path)
    try:
        return identify(content)
    except UnreadableImage as error:
        return error


def identify(content: bytes) -> Fingerprint:
    """Return the fingerprint of an encoded image.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    facts, pixels = inspect(content)
    digest = hashlib.sha256(content).hexdigest()
    contrast = float(pixels.std())
    plain = contrast < PLAIN
    return Fingerprint(
        sha256=digest,
        perceptual_hash="" if plain else perceptual_hash(pixels),
        size=len(content),
        facts=facts,
        two_valued=not plain and is_two_valued(pixels),
        brightness=float(pixels.mean()),
        contrast=contrast,
        sharpness=sharpness_of(pixels),
    )


def sharpness_of(pixels: Pixels) -> float:
    """Return how sharp a grey image is: the standard deviation of its Laplacian, by its contrast.

    Blurring removes fine detail, which the Laplacian measures; the division keeps images of low
    contrast from counting as blurred. 0 for a plain image. Blur of less than about a hundredth of
    the image's side does not show in the small copy.

    Args:
        pixels: uint8 array of shape (120, 120, 1).

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000 (the variance
    of the Laplacian).
    """
    contrast = float(pixels.std())
    if contrast < PLAIN:
        return 0.0
    return float(cv2.Laplacian(pixels[:, :, 0], cv2.CV_64F).std()) / contrast


def have_near(hashes: Sequence[str], others: Sequence[str], distance: int) -> list[bool]:
    """Return for each hash whether one of the others differs in at most so many bits.

    Args:
        hashes: Perceptual hashes, or empty for plain images, which have no near duplicates.
        others: Perceptual hashes, or empty.
        distance: The largest number of different bits, of 576.
    """
    table = as_words([other for other in others if other])
    return [bool(text) and bool((differing_bits(text, table) <= distance).any()) for text in hashes]


def as_words(hashes: Sequence[str]) -> Words:
    """Return perceptual hashes, none of them empty, as uint64 array of shape (hashes, 9)."""
    packed = np.frombuffer(b"".join(map(bytes.fromhex, hashes)), np.uint64)
    return packed.reshape(len(hashes), SIDE * SIDE // 64)


def differing_bits(perceptual_hash: str, others: Words) -> Indices:
    """Return in how many bits a perceptual hash differs from others: int64 array, 0 to 576.

    Args:
        perceptual_hash: 144 hexadecimal digits.
        others: From `as_words`.
    """
    bits: Indices = np.bitwise_count(others ^ as_words([perceptual_hash])).sum(1, dtype=np.int64)
    return bits


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
    digests: Sequence[str],
    hashes: Sequence[str],
    groups: Sequence[str],
    distance: int | None,
    pixels: Callable[[int], Pixels],
) -> tuple[list[Pair], list[list[int]]]:
    """Return the pairs of images that are duplicates, or of the same group, in order.

    Where many images are alike, the result has some pairs of each image, enough to connect them.

    Args:
        digests: SHA-256 of each file.
        hashes: Perceptual hash of each image, or empty.
        groups: Name of each image's group, or empty.
        distance: Two images are near duplicates when at most this many of 576 bits differ; None:
            there are none.
        pixels: Returns an image, uint8 array of shape (CLOSE, CLOSE, 3), by its position.

    Returns:
        The pairs, and the scenes: the positions of images that were compared more closely.
    """
    pairs: dict[tuple[int, int], Pair] = {}
    _connect(pairs, digests, "exact duplicate", hashes)
    scenes: list[list[int]] = []
    if distance is not None:
        first, second = _near(hashes, distance)
        near, scenes = _without_scenes(first, second, len(hashes), pixels)
        for one, other in near:
            if digests[one] != digests[other]:
                bits = _bits_between(hashes[one], hashes[other])
                pairs.setdefault((one, other), Pair(one, other, "near duplicate", bits))
    _connect(pairs, groups, "same group", hashes)
    return [pairs[key] for key in sorted(pairs)], scenes


def component_ids(pairs: Sequence[Pair], images: int) -> npt.NDArray[np.int32]:
    """Return a number for each image; images that pairs connect have the same number.

    Returns:
        int32 array of shape (images,), counted from 0 in the order of each component's first image.
    """
    first = np.array([pair.first for pair in pairs], np.int64)
    second = np.array([pair.second for pair in pairs], np.int64)
    return _components(first, second, images)


def differs_in_one_place(first: Pixels, second: Pixels) -> bool:
    """Return whether two similar images differ mainly in one place, as by an object.

    Copies that were scaled, compressed, or changed in brightness or contrast differ everywhere.

    Args:
        first: uint8 array of shape (CLOSE, CLOSE, 3).
        second: The same.
    """
    return local_change(first, second) > LOCAL_CHANGE


def local_change(first: Pixels, second: Pixels) -> float:
    """Return the largest local difference of two images, as a multiple of their usual difference.

    Args:
        first: uint8 array of shape (CLOSE, CLOSE, 3).
        second: The same.
    """
    differences = []
    for channel in range(3):
        one = first[:, :, channel].astype(np.float64) / 255
        other = second[:, :, channel].astype(np.float64) / 255
        degree = 3 if one.std() > 0.01 else 0  # a cubic curve covers brightness and gamma
        curve = np.polynomial.Polynomial.fit(one.ravel(), other.ravel(), degree)
        differences.append((other - curve(one)) * 255)
    difference = np.stack(differences, axis=-1)
    spread = 1.4826 * np.median(np.abs(difference)) + 0.5  # 1.4826: standard deviation of noise
    return float(np.abs(uniform_filter(difference, (3, 3, 1))).max() / spread)


def without_background(grey: Pixels) -> npt.NDArray[np.float16]:
    """Return what differs from the background in each image of a scene, with length 1.

    The background is the median image. The values are clipped at two standard deviations, so that
    an object counts no more than the noise around it.

    Args:
        grey: uint8 array of shape (images, pixels).

    Returns:
        Array of the same shape: the product of two rows is their correlation, -1 to 1.
    """
    background = np.median(grey[:: max(1, len(grey) // SAMPLE)], axis=0).astype(np.float32)
    background -= background.mean()
    result = np.empty(grey.shape, np.float16)
    for start in range(0, len(grey), ROWS):
        part = grey[start : start + ROWS].astype(np.float32)
        part -= part.mean(axis=1, keepdims=True)
        gain = part @ background / max(float(background @ background), 1.0)
        part -= gain[:, None] * background
        # 1.4826: standard deviation of noise; 0.5: of rounding to whole grey levels
        spread = np.maximum(1.4826 * np.median(np.abs(part), axis=1, keepdims=True), 0.5)
        part = np.clip(part / spread, -2, 2)
        length = np.linalg.norm(part, axis=1, keepdims=True)
        result[start : start + ROWS] = part / np.maximum(length, 1e-6)
    return result


def _connect(
    pairs: dict[tuple[int, int], Pair], names: Sequence[str], kind: str, hashes: Sequence[str]
) -> None:
    """Add a pair for each image and the one before it with the same name, unless it is empty."""
    previous: dict[str, int] = {}
    for index, name in enumerate(names):
        if name:
            if (before := previous.get(name)) is not None:
                bits = _bits_between(hashes[before], hashes[index])
                pairs.setdefault((before, index), Pair(before, index, kind, bits))
            previous[name] = index


def _near(hashes: Sequence[str], distance: int) -> tuple[Indices, Indices]:
    """Return the pairs of images whose hashes differ in at most `distance` bits.

    At most PAIRS_PER_IMAGE pairs begin with the same image.
    """
    hashed = np.flatnonzero([bool(text) for text in hashes])
    packed = np.array([list(bytes.fromhex(text)) for text in hashes if text], np.uint8)
    packed = packed.reshape(len(hashed), SIDE * SIDE // 8)
    bits = np.unpackbits(packed, axis=1)
    telling = np.argsort(np.abs(bits.mean(axis=0) - 0.5), kind="stable")[:FIRST_BITS]
    signs = 2 * bits[:, telling].astype(np.float32) - 1
    words = packed.view(np.uint64)
    found_first, found_second = [], []
    for top in range(0, len(signs), ROWS):
        taken = np.zeros(min(ROWS, len(signs) - top), np.int64)
        for left in range(top, len(signs), COLUMNS):
            # the product of two signs is 1 where bits agree and -1 where they differ
            product = signs[top : top + ROWS] @ signs[left : left + COLUMNS].T
            rows, columns = np.nonzero(product >= FIRST_BITS - 2 * distance)
            after = left + columns > top + rows
            rows, columns = rows[after], columns[after]
            differing = np.bitwise_count(words[top + rows] ^ words[left + columns]).sum(axis=1)
            rows, columns = rows[differing <= distance], columns[differing <= distance]
            rows, columns = _first_of_each_row(rows, columns, taken)
            found_first.append(hashed[top + rows])
            found_second.append(hashed[left + columns])
    return _joined(found_first), _joined(found_second)


def _without_scenes(
    first: Indices, second: Indices, images: int, pixels: Callable[[int], Pixels]
) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Replace the pairs inside scenes by those of images that agree beyond the background."""
    numbers = _components(first, second, images)
    sizes = np.bincount(numbers, minlength=1)
    large = np.flatnonzero(sizes >= max(SCENE_IMAGES, SCENE_SHARE * images))
    plain = ~np.isin(numbers[first], large)
    pairs = list(zip(first[plain].tolist(), second[plain].tolist(), strict=True))
    scenes = []
    for number in large:
        members = np.flatnonzero(numbers == number)
        scenes.append(members.tolist())
        grey = np.stack([pixels(int(i)).mean(axis=2).round().astype(np.uint8) for i in members])
        pairs += _copies_in_scene(members, grey.reshape(len(members), -1), DEPTH)
    return pairs, scenes


def _copies_in_scene(members: Indices, grey: Pixels, depth: int) -> list[tuple[int, int]]:
    """Return the pairs of a scene's images that agree in what differs from the background.

    Args:
        members: Positions of the images.
        grey: uint8 array of shape (members, pixels).
        depth: How often the images may be divided again.
    """
    rest = without_background(grey)
    found_first, found_second = [], []
    for top in range(0, len(rest), ROWS):
        block = rest[top : top + ROWS].astype(np.float32)
        taken = np.zeros(len(block), np.int64)
        for left in range(top, len(rest), COLUMNS):
            product = block @ rest[left : left + COLUMNS].astype(np.float32).T
            rows, columns = np.nonzero(product >= COPY_CORRELATION)
            after = left + columns > top + rows
            rows, columns = _first_of_each_row(rows[after], columns[after], taken)
            found_first.append(top + rows)
            found_second.append(left + columns)
    first, second = _joined(found_first), _joined(found_second)
    numbers = _components(first, second, len(members))
    large = np.flatnonzero(np.bincount(numbers) >= max(SCENE_IMAGES, SCENE_SHARE * len(members)))
    small = ~np.isin(numbers[first], large)
    pairs = [
        (int(members[one]), int(members[other]))
        for one, other in zip(first[small], second[small], strict=True)
    ]
    if depth:
        for number in large:
            chosen = np.flatnonzero(numbers == number)
            pairs += _copies_in_scene(members[chosen], grey[chosen], depth - 1)
    return pairs


def _first_of_each_row(rows: Indices, columns: Indices, taken: Indices) -> tuple[Indices, Indices]:
    """Return at most PAIRS_PER_IMAGE pairs of each row, minus those `taken` before; count them.

    Args:
        rows: Row numbers in ascending order.
        columns: The column of each pair.
        taken: Number of pairs of each row so far; changed in place.
    """
    numbers = np.bincount(rows, minlength=len(taken))
    starts = np.cumsum(numbers) - numbers
    kept = np.arange(len(rows)) - starts[rows] + taken[rows] < PAIRS_PER_IMAGE
    taken += numbers
    return rows[kept], columns[kept]


def _components(first: Indices, second: Indices, images: int) -> npt.NDArray[np.int32]:
    links = coo_array((np.ones(len(first)), (first, second)), shape=(images, images))
    numbers: npt.NDArray[np.int32] = connected_components(links, directed=False)[1]
    return numbers


def _joined(parts: list[Indices]) -> Indices:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _bits_between(first: str, second: str) -> int:
    if not first or not second:
        return 0
    return (int(first, 16) ^ int(second, 16)).bit_count()
