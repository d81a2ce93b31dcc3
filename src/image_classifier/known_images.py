"""What a model knows about the images it was made with: how unusual a new image is beside them.

`evaluate` writes it beside the weights. It has measurements of training images, how far validation
images are from them, measurements of images that the model was not trained on, and, if the
settings want it, what identifies each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from image_classifier.data.images import Pixels
from image_classifier.data.near_duplicates import (
    SCENE_IMAGES,
    Words,
    as_words,
    differing_bits,
)
from image_classifier.project.files import new_file

if TYPE_CHECKING:
    from image_classifier.data.dataset import PreparedDataset

Floats = npt.NDArray[np.float32]

FILE = "known_images.npz"
NEIGHBOURS = 5  # single training images may be odd themselves
MOST = 2000  # images of each kind: bounds the file and the time of a prediction
NOT_KNOWN = (
    "knows no images to compare with: it was registered by a sweep, or by an older version of this "
    "package. `dvc repro -f -s evaluate` registers the current model with them."
)
SMALLEST = 1e-6  # training images that are all alike have no distances to divide by


@dataclass(frozen=True)
class Measurements:
    """What is measured of images, to compare sets of them.

    Attributes:
        features: float32 array of shape (images, features): what the model's last layer sees.
        probabilities: float32 array of shape (images, classes), 0 to 1.
        pixels: float32 array of shape (images, 3): brightness (the mean grey value, 0 to 255),
            contrast (its standard deviation), and sharpness (the standard deviation of the
            Laplacian), of the image as the model sees it.
    """

    features: Floats
    probabilities: Floats
    pixels: Floats

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)

    def take(self, rows: npt.NDArray[np.int64]) -> "Measurements":
        """Return those of some of the images."""
        return Measurements(self.features[rows], self.probabilities[rows], self.pixels[rows])


def join(parts: Sequence[Measurements]) -> Measurements:
    """Return the measurements of all images of several sets, at least one."""
    names = (field.name for field in fields(Measurements))
    return Measurements(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


@dataclass(frozen=True)
class KnownImages:
    """What a model knows about the images it was made with.

    Attributes:
        train: float32 array of shape (images, features): training images, at most `MOST`.
        train_pixels: float32 array of shape (images, 3): see `Measurements.pixels`.
        usual: float32 array of shape (images,), ascending: `strangeness` of validation images.
        sample: Measurements of validation and test images, at most `MOST`.
        digests: The SHA-256 of each training and validation image; empty if not wanted.
        hashes: The perceptual hash of each of them, or empty.
        duplicate_distance: How many bits of the hashes of near duplicates differ at most, of 576;
            None: near duplicates are not searched for.
    """

    train: Floats
    train_pixels: Floats
    usual: Floats
    sample: Measurements
    digests: frozenset[str] = frozenset()
    hashes: tuple[str, ...] = ()
    duplicate_distance: int | None = None

    def percentiles(self, features: Floats, pixels: Floats) -> npt.NDArray[np.float64]:
        """Return how unusual images are: the percentage of validation images less strange.

        An image from the same source has a value of at least p with a probability of at most
        about 1 - p / 100, as a mean over models: with few validation images, one model may have
        more. Images count as independent, and the validation images also chose the epoch. With m
        of them, no value is above 100 m / (m + 1).
        Source: Laxhammar and Falkman, Conformal prediction for distribution-independent anomaly
        detection in streaming vessel data, 2010.

        Args:
            features: float32 array of shape (images, features).
            pixels: float32 array of shape (images, 3); see `Measurements.pixels`.

        Returns:
            float64 array of shape (images,), 0 to 100.
        """
        less_strange = np.searchsorted(self.usual, self.strangeness(features, pixels), "left")
        return 100 * less_strange / (len(self.usual) + 1)

    def strangeness(self, features: Floats, pixels: Floats) -> Floats:
        """Return how far images are from the nearest training images, about 2 for most of them.

        It is the sum of two distances, each in units of the mean distance of a training image to
        other training images: of the features, and of the logarithms of brightness, contrast and
        sharpness. A model that has learned to ignore a change, such as blur, does not see it in
        its features.

        Args:
            features: float32 array of shape (images, features).
            pixels: float32 array of shape (images, 3); see `Measurements.pixels`.

        Returns:
            float32 array of shape (images,).
        """
        mean, deviation = self._logarithms
        normal = (np.log1p(pixels) - mean) / deviation
        return self._features.distances(features) + self._pixels.distances(normal)

    @cached_property
    def _logarithms(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the logarithms of `train_pixels`."""
        logarithms = np.log1p(self.train_pixels)
        return logarithms.mean(axis=0), np.maximum(logarithms.std(axis=0), SMALLEST)

    @cached_property
    def _features(self) -> "_Neighbours":
        return _Neighbours(self.train)

    @cached_property
    def _pixels(self) -> "_Neighbours":
        mean, deviation = self._logarithms
        return _Neighbours((np.log1p(self.train_pixels) - mean) / deviation)

    def seen(self, digest: str, perceptual_hash: str) -> str:
        """Return whether an image was used to make the model: `exactly`, `near copy` or `no`.

        Where as many known images as a scene has look like it, as frames of a fixed camera do,
        that says nothing about this image: the answer is then `no`.

        Args:
            digest: The SHA-256 of its file, hexadecimal.
            perceptual_hash: 144 hexadecimal digits, or empty for a plain image.
        """
        if digest in self.digests:
            return "exactly"
        if self.duplicate_distance is None or not self.hashes or not perceptual_hash:
            return "no"
        near = int(np.sum(differing_bits(perceptual_hash, self._words) <= self.duplicate_distance))
        return "near copy" if 0 < near < SCENE_IMAGES else "no"

    @cached_property
    def _words(self) -> Words:
        return as_words(self.hashes)


class _Neighbours:
    """Measures how far images are from the nearest training images."""

    def __init__(self, train: Floats) -> None:
        """Store the values of training images, of shape (images, values), and find the unit."""
        self.train = train
        self.number = max(1, min(NEIGHBOURS, len(train) - 1))
        nearest = NearestNeighbors(n_neighbors=self.number, algorithm="brute").fit(train)
        to_others, _ = nearest.kneighbors()  # of each training image to the other ones
        self.unit = max(float(to_others.mean()), SMALLEST)

    def distances(self, values: Floats) -> Floats:
        """Return the mean Euclidean distance of each image to the nearest training images.

        Args:
            values: float32 array of shape (images, values).

        Returns:
            float array of shape (images,), in units of that of the training images to each other.
        """
        # unlike scikit-learn's products of matrices, the distances of an image do not depend on
        # the other images, to the last bit
        distances = np.partition(cdist(values, self.train), self.number - 1, axis=1)
        return np.asarray(distances[:, : self.number].mean(axis=1) / self.unit, np.float32)


def measure_pixels(pixels: Pixels) -> Floats:
    """Return brightness, contrast and sharpness of images; see `Measurements.pixels`.

    Args:
        pixels: uint8 array of shape (images, height, width, 1 or 3).
    """
    found = []
    for image in pixels:
        grey = image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found.append((grey.mean(), grey.std(), cv2.Laplacian(grey, cv2.CV_32F).std()))
    return np.array(found, np.float32).reshape(len(pixels), 3)


def sample_of(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return at most `MOST` of the rows, drawn with a fixed seed, in order."""
    if len(rows) <= MOST:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))


def know(
    train: Measurements,
    validation: Measurements,
    sample: Measurements,
    digests: frozenset[str] = frozenset(),
    hashes: tuple[str, ...] = (),
    duplicate_distance: int | None = None,
) -> KnownImages:
    """Return what a model knows about images; see `KnownImages`."""
    known = KnownImages(
        train.features,
        train.pixels,
        np.empty(0, np.float32),
        sample,
        digests,
        hashes,
        duplicate_distance,
    )
    usual = known.strangeness(validation.features, validation.pixels)
    return replace(known, usual=np.sort(usual))


def write(folder: Path, known: KnownImages) -> None:
    """Write it beside the weights of a model."""
    with new_file(folder / FILE).open("wb") as file:
        np.savez(
            file,
            train=known.train,
            train_pixels=known.train_pixels,
            usual=known.usual,
            features=known.sample.features,
            probabilities=known.sample.probabilities,
            pixels=known.sample.pixels,
            digests=np.array(sorted(known.digests), np.str_),
            hashes=np.array(known.hashes, np.str_),
            duplicate_distance=np.array(
                [] if known.duplicate_distance is None else [known.duplicate_distance], np.int64
            ),
        )


def read(folder: Path) -> KnownImages | None:
    """Read what `write` wrote; None for a model that was not evaluated."""
    if not (folder / FILE).is_file():
        return None
    with np.load(folder / FILE, allow_pickle=False) as stored:
        distance = stored["duplicate_distance"]
        return KnownImages(
            stored["train"],
            stored["train_pixels"],
            stored["usual"],
            Measurements(stored["features"], stored["probabilities"], stored["pixels"]),
            frozenset(stored["digests"].tolist()),
            tuple(stored["hashes"].tolist()),
            int(distance[0]) if len(distance) else None,
        )


def identities(dataset: "PreparedDataset") -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the digests and perceptual hashes of a dataset's training and validation images."""
    rows = [row for row in dataset.rows if row.split != "test"]
    hashes = tuple(row.perceptual_hash for row in rows if row.perceptual_hash)
    return frozenset(row.sha256 for row in rows), hashes
