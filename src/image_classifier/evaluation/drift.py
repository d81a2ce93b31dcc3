"""Drift: whether new images come from the same source as the images that a model was made with.

Brightness, contrast, sharpness and content are compared among images of the same predicted class.
So if only the shares of the classes differ, the images themselves do not; the shares are compared
by themselves. Images count as independent: of several images of one patient, give one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from image_classifier.known_images import Measurements

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEWEST = 5  # new images: with fewer, nothing can be told
MOST = 1000  # images of each side that are compared: bounds the time
LEVEL = 0.05  # of samples from the same source, this share is called drifted
POWER = 0.8
PERMUTATIONS = 999
PIXELS = ("brightness", "contrast", "sharpness")
CONTENT, CLASSES = "content", "predicted classes"
SIZES = (5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)
DRAWS, FEW_PERMUTATIONS, FEW_IMAGES = 25, 399, 200  # to find how many images are needed


@dataclass(frozen=True)
class Difference:
    """How new images differ from the usual ones in one respect.

    Attributes:
        name: `brightness`, `contrast`, `sharpness`, `content` (the features of the model), or
            `predicted classes`.
        p_value: Corrected for the number of respects.
        text: The difference in words, with numbers.
    """

    name: str
    p_value: float
    text: str


@dataclass(frozen=True)
class Drift:
    """Whether new images come from the same source as those that the model was made with.

    Attributes:
        images: How many new images were compared, at most `MOST`.
        reference_images: With how many, at most `MOST`.
        p_value: The probability of such a difference, or a larger one, if the source is the same.
        differences: All respects, the most certain difference first.
        images_needed: About so many images show this difference with a probability of 80%; None
            if there is no drift.
        visible: What so many images would have shown with a probability of 80%, if there is no
            drift; else empty.
    """

    images: int
    reference_images: int
    p_value: float
    differences: tuple[Difference, ...]
    images_needed: int | None
    visible: str

    @property
    def drifted(self) -> bool:
        """Whether the p-value is below 0.05."""
        return self.p_value < LEVEL

    @property
    def leading(self) -> tuple[Difference, ...]:
        """The differences that are certain enough, the most certain one first; none if no drift."""
        return tuple(one for one in self.differences if self.drifted and one.p_value < LEVEL)

    @property
    def only_classes(self) -> bool:
        """Whether the shares of the classes differ, and not the images of a class."""
        return self.drifted and [one.name for one in self.leading] == [CLASSES]

    @property
    def verdict(self) -> str:
        """The answer, in one sentence."""
        if not self.drifted:
            return "No difference was found: they may come from the same source."
        if self.only_classes:
            return (
                "The predicted classes have other shares than usual; images of the same predicted "
                "class look as usual."
            )
        return "They come from another source than the training images, or were changed."

    def as_json(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "drifted": self.drifted,
            "verdict": self.verdict,
            **asdict(self),
            "leading": [one.text for one in self.leading],
        }


def measure_drift(reference: Measurements, new: Measurements, classes: Sequence[str]) -> Drift:
    """Compare new images with images that a model was made with, but not trained on.

    Source of the idea: Rabanser, Günnemann and Lipton, Failing loudly: an empirical study of
    methods for detecting dataset shift, NeurIPS 2019. The test is a permutation test, so it holds
    in small sets: within each predicted class, new and usual images are exchanged at random. The
    statistics are energy distances (Székely and Rizzo, Energy statistics, 2013), of the ranks of
    brightness, contrast and sharpness, and of the features. Their p-values are corrected as in
    Westfall and Young, Resampling-based multiple testing, 1993. The predicted classes are compared
    with a chi-squared statistic, also by permutation. Because these are two tests, the p-values
    are doubled.

    Args:
        reference: At least `FEWEST` images.
        new: At least `FEWEST` images.
        classes: The names of the classes, in the order of the probabilities.
    """
    generator = np.random.default_rng(0)
    reference, new = (part.take(_some(len(part), MOST, generator)) for part in (reference, new))
    pool = _Pool(reference, new)
    p_values, content = pool.p_values(np.arange(len(pool)), PERMUTATIONS, generator)
    texts = _texts(pool, classes) | {
        CONTENT: f"content: the difference is {content:.1f} times as large as by chance"
    }
    differences = tuple(
        Difference(name, p_value, texts[name])
        for name, p_value in sorted(p_values.items(), key=lambda item: item[1])
    )
    smallest = differences[0].p_value
    drifted = smallest < LEVEL
    return Drift(
        images=len(new),
        reference_images=len(reference),
        p_value=smallest,
        differences=differences,
        images_needed=_images_needed(pool, generator) if drifted else None,
        visible="" if drifted else _visible(pool),
    )


class _Pool:
    """The images of both sides, and how far they are from each other in each respect."""

    def __init__(self, reference: Measurements, new: Measurements) -> None:
        """Measure all distances; features are divided by their standard deviation."""
        self.reference, self.new = reference, new
        self.is_new = np.arange(len(reference) + len(new)) >= len(reference)
        self.pixels = np.concatenate([reference.pixels, new.pixels])
        probabilities = np.concatenate([reference.probabilities, new.probabilities])
        self.predicted: Integers = probabilities.argmax(axis=1)
        self.counts = np.bincount(self.predicted[~self.is_new], minlength=probabilities.shape[1])
        self.strata = _strata(self.predicted, self.counts)
        ranks = rankdata(self.pixels, axis=0).astype(np.float32)
        self.distances = {
            name: np.abs(ranks[:, None, index] - ranks[None, :, index])
            for index, name in enumerate(PIXELS)
        }
        self.distances[CONTENT] = _euclidean(np.concatenate([reference.features, new.features]))

    def __len__(self) -> int:
        return len(self.is_new)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The shares of the predicted classes, of shape (2, classes): new and reference images."""
        counts = np.stack(
            [
                np.bincount(self.predicted[side], minlength=len(self.counts))
                for side in (self.is_new, ~self.is_new)
            ]
        )
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))

    def p_values(
        self, rows: Integers, permutations: int, generator: np.random.Generator
    ) -> tuple[dict[str, float], float]:
        """Compare some of the images of both sides.

        Returns:
            The corrected p-value of each respect; and how many times as large the energy distance
            of the content is as the mean of the permuted ones.
        """
        is_new, strata = self.is_new[rows], self.strata[rows]
        chosen = np.empty((1 + permutations, len(rows)), bool)  # the first row is what was observed
        chosen[:] = is_new
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            chosen[1:, members] = generator.permuted(chosen[1:, members], axis=1)
        weights = _weights(chosen, strata)
        found = np.stack(
            [
                -np.einsum("ij,ij->i", weights @ matrix[np.ix_(rows, rows)], weights)
                for matrix in self.distances.values()
            ],
            axis=1,
        )
        single = rankdata(-found, "max", axis=0) / len(found)
        smallest = single.min(axis=1)
        corrected = [float((smallest <= value).mean()) for value in single[0]]
        of_classes = _classes_p_value(self.predicted[rows], is_new, permutations, generator)
        p_values = dict(zip(self.distances, corrected, strict=True)) | {CLASSES: of_classes}
        content = found[:, list(self.distances).index(CONTENT)]
        times = float(content[0] / max(content[1:].mean(), 1e-9))
        return {name: min(1.0, 2 * value) for name, value in p_values.items()}, times


def _strata(predicted: Integers, counts: Integers) -> Integers:
    """Return the group of each image in which it is compared: its predicted class.

    Classes with fewer than `FEWEST` reference images are one group. If even all of them together
    have fewer, they belong to the largest class.
    """
    groups = np.arange(len(counts))
    small = counts < FEWEST
    groups[small] = len(counts) if counts[small].sum() >= FEWEST else counts.argmax()
    return groups[predicted]


def _weights(chosen: Bools, strata: Integers) -> Floats:
    """Return the weight of each image: new ones sum to 1, reference images to -1.

    Reference images are weighted so that their groups have the shares of the new images.

    Args:
        chosen: bool array of shape (permutations, images): which images are new.
        strata: int array of shape (images,).
    """
    new = np.bincount(strata[chosen[0]], minlength=strata.max() + 1)
    usual = np.bincount(strata[~chosen[0]], minlength=strata.max() + 1)
    negative = -(new / np.maximum(usual, 1)) / new.sum()
    return np.asarray(np.where(chosen, 1 / new.sum(), negative[strata]), np.float32)


def _euclidean(features: Floats) -> Floats:
    lengths = np.einsum("ij,ij->i", features, features)
    squares = lengths[:, None] + lengths - 2 * features @ features.T
    np.fill_diagonal(squares, 0)
    return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float32)


def _classes_p_value(
    predicted: Integers, is_new: Bools, permutations: int, generator: np.random.Generator
) -> float:
    totals = np.bincount(predicted)
    totals = totals[totals > 0]
    observed = np.array([(predicted[is_new] == index).sum() for index in np.unique(predicted)])
    count = int(is_new.sum())
    drawn = generator.multivariate_hypergeometric(totals, count, permutations)
    expected = totals * count / len(predicted)

    # the totals are fixed: the statistic of the whole table is a multiple of that of the new images
    seen, permuted = (((counts - expected) ** 2 / expected).sum(-1) for counts in (observed, drawn))
    as_large = permuted >= seen - 1e-9
    return float((1 + as_large.sum()) / (1 + permutations))


def _some(count: int, most: int, generator: np.random.Generator) -> Integers:
    if count <= most:
        return np.arange(count)
    return np.sort(generator.choice(count, most, replace=False))


def _images_needed(pool: _Pool, generator: np.random.Generator) -> int:
    """Return about how many of the new images are needed to see the drift, by drawing fewer.

    Power grows with the number, so the smallest of `SIZES` is found by bisection.
    """
    usual = _some(int((~pool.is_new).sum()), FEW_IMAGES, generator)
    new = np.flatnonzero(pool.is_new)

    def power(count: int) -> float:
        seen = 0
        for _ in range(DRAWS):
            rows = np.concatenate([usual, generator.choice(new, count, replace=False)])
            p_values, _ = pool.p_values(rows, FEW_PERMUTATIONS, generator)
            seen += min(p_values.values()) < LEVEL
        return seen / DRAWS

    sizes = [size for size in SIZES if size < len(new)]
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if power(sizes[middle]) >= POWER:
            high = middle
        else:
            low = middle + 1
    return sizes[low] if low < len(sizes) else len(new)


def _visible(pool: _Pool) -> str:
    """Return which change of the brightness so many images would have shown, in words.

    By the normal approximation of a test of two means; the deviation is that among images of the
    same predicted class, and the level is corrected for all respects.
    """
    brightness = pool.pixels[:, 0].astype(np.float64)
    groups, members = np.unique(pool.strata, return_inverse=True)
    means = np.bincount(members, brightness) / np.bincount(members)
    freedom = max(1, len(brightness) - len(groups))
    deviation = np.sqrt(((brightness - means[members]) ** 2).sum() / freedom)
    level = LEVEL / 2 / len(pool.distances)
    factor = norm.isf(level / 2) + norm.ppf(POWER)
    change = factor * deviation * np.sqrt(1 / len(pool.new) + 1 / len(pool.reference))
    return f"a change of the brightness by {change:.0f} of 255 grey levels"


def _texts(pool: _Pool, classes: Sequence[str]) -> dict[str, str]:
    """Return brightness, contrast, sharpness and predicted classes of both sides, in words.

    The usual images are weighted as in the test.
    """
    weights = _weights(pool.is_new[None], pool.strata)[0].astype(np.float64)
    sides = [np.maximum(weights, 0), np.maximum(-weights, 0)]
    texts = {}
    for index, name in enumerate(PIXELS):
        values = pool.pixels[:, index].astype(np.float64)
        new, usual = (float(np.average(values, weights=side)) for side in sides)
        new_spread, usual_spread = (
            float(np.sqrt(np.average((values - mean) ** 2, weights=side)))
            for side, mean in zip(sides, (new, usual), strict=True)
        )
        texts[name] = f"{name} {new:.3g}, usually {usual:.3g}"
        if abs(new - usual) < usual_spread / 4:  # then the spread is what differs
            texts[name] = (
                f"{name} {new:.3g} with a standard deviation of {new_spread:.3g}, usually "
                f"{usual:.3g} with {usual_spread:.3g}"
            )
    new_shares, usual_shares = pool.shares
    most = int(np.abs(new_shares - usual_shares).argmax())
    texts[CLASSES] = (
        f"predicted class {classes[most]} {new_shares[most]:.0%}, usually {usual_shares[most]:.0%}"
    )
    return texts
