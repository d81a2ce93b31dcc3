"""Weak spots: kinds of test images on which a model is clearly worse than on the others.

Each kind is compared with the rest of the test images, class by class, so that a kind is not weak
only because it has many images of a class that is difficult everywhere. A kind is weak if the
interval of the difference excludes 0, although all kinds together may err in one test of twenty.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import beta
from sklearn.cluster import KMeans

from image_classifier.evaluation.metrics import Floats, Integers

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.data.dataset import PreparedDataset
    from image_classifier.evaluation.predictions import Predictions

LEVEL = 0.95  # for all kinds together
FEWEST = 8  # independent images; with fewer, hardly any weakness would be certain
PER_CLUSTER = 20  # test images, on average
MOST_CLUSTERS = 8
EXAMPLES = 3
ROUNDING = 1e-9  # a sum of weights that should be 0
THIRDS = {
    "brightness": ("darkest third", "middle third", "brightest third"),
    "size": ("smallest third", "middle third", "largest third"),
}

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Slice:
    """One kind of test images, compared with the rest of them.

    Attributes:
        name: Such as `source: hospital A` or `cluster 3 of 8`.
        images: The number of its test images.
        independent: How many independent images they count as, at least `FEWEST`; see `compare`.
        right: How many of its images the model classifies correctly.
        inside: Accuracy on the kind, 0 to 1; see `compare`.
        outside: Accuracy on the other test images, with the same weights of the classes.
        difference: `outside` - `inside`, above 0 if the model is worse on the kind.
        low: The lower end of the interval of the difference.
        high: The upper end.
        level: The level of that interval, 0.95 or more: the more kinds are tried, the higher.
        tried: How many comparisons were made.
        weak: Whether `low` is above 0.
        mostly: For clusters the most frequent class; otherwise empty.
        examples: For clusters the paths of the test images that are nearest to their mean.
    """

    name: str
    images: int
    independent: float
    right: int
    inside: float
    outside: float
    difference: float
    low: float
    high: float
    level: float
    tried: int
    weak: bool
    mostly: str
    examples: list[str]


@dataclass(frozen=True)
class WeakSpots:
    """All kinds of test images that were compared with the rest.

    Attributes:
        slices: All of them, in the order of trial; those with `weak` are the weak spots.
        tried: How many comparisons they are: two kinds that are each the rest of the other are one.
        too_small: The names of the kinds that have too few images for a comparison, or whose
            classes the other images do not have.
        sentences: The weak spots in words, the largest difference first.
    """

    slices: list[Slice]
    tried: int
    too_small: list[str]
    sentences: list[str]


@dataclass(frozen=True)
class Kind:
    """A kind of test images: `inside` is a bool array of shape (images,); see `Slice`."""

    name: str
    inside: Mask
    mostly: str = ""
    examples: tuple[str, ...] = ()


def find_weak_spots(
    dataset: "PreparedDataset",
    classifier: "Classifier",
    train_features: Floats,
    test: "Predictions",
) -> WeakSpots:
    """Compare every kind of test images with the rest of the test images.

    The kinds are: each source, images alone or with others in their group, thirds by brightness,
    thirds by the number of pixels of the file, and clusters of images that look similar to the
    model.

    Args:
        dataset: The prepared images.
        classifier: The model.
        train_features: float array of shape (training images, features), from
            `Classifier.outputs`; a sample is enough. They decide the clusters.
        test: The predictions for the test images, with their features.
    """
    kinds = [*kinds_by_manifest(dataset, test), *kinds_by_brightness(dataset, test)]
    kinds += kinds_by_features(dataset, classifier, train_features, test)
    right = test.predicted == test.labels
    return compare_all(kinds, right, test.labels, test.clusters)


def compare_all(
    kinds: Sequence[Kind], right: Mask, labels: Integers, clusters: Sequence[str]
) -> WeakSpots:
    """Compare kinds of images with the rest, at a level that allows for their number.

    Args:
        kinds: The kinds; `inside` of each is a bool array of shape (images,).
        right: bool array of shape (images,): whether the model is right.
        labels: int64 array of shape (images,): the true classes.
        clusters: The cluster of each image.
    """
    compared = [(kind, compare(right, labels, clusters, kind.inside)) for kind in kinds]
    large = [
        (kind, sides) for kind, sides in compared if min(sides[0].number, sides[1].number) >= FEWEST
    ]
    # a kind and its complement are one comparison
    tried = len({min(kind.inside.tobytes(), (~kind.inside).tobytes()) for kind, _ in large})
    level = 1 - (1 - LEVEL) / max(tried, 1)  # Bonferroni
    slices = []
    for kind, (inside, outside) in large:
        low, high = difference_interval(inside, outside, level)
        slices.append(
            Slice(
                kind.name, int(kind.inside.sum()), inside.number, int(right[kind.inside].sum()),
                inside.accuracy, outside.accuracy, outside.accuracy - inside.accuracy, low, high,
                level, tried, low > 0, kind.mostly, list(kind.examples),
            )
        )  # fmt: skip
    names = {entry.name for entry in slices}
    too_small = [kind.name for kind in kinds if kind.name not in names]
    weak = sorted((entry for entry in slices if entry.weak), key=lambda entry: -entry.difference)
    return WeakSpots(slices, tried, too_small, [sentence(spot) for spot in weak])


@dataclass(frozen=True)
class Side:
    """The images of a kind, or the rest.

    Attributes:
        accuracy: The weighted mean of the accuracies of the classes, 0 to 1.
        number: How many independent images have an accuracy that is as certain; 0 if there is no
            class with images on both sides, and `accuracy` is then 0, too.
    """

    accuracy: float
    number: float


def compare(
    right: Mask, labels: Integers, clusters: Sequence[str], inside: Mask
) -> tuple[Side, Side]:
    """Return the accuracy inside and outside of a kind of images, with the same mix of classes.

    Images of one cluster and one class on one side count as one image, whose value is their mean.
    The weight of a class with n such images inside and m outside is n m / (n + m): classes on one
    side only do not count. Source: Mantel and Haenszel, 1959; for differences of proportions:
    Greenland and Robins, Estimation of a common effect parameter from sparse follow-up data, 1985.
    The number of independent images is that of Kish, Survey Sampling, 1965: the square of the sum
    of the weights of the clusters by the sum of their squares. So a cluster with several classes
    counts as if its images were all right or all wrong together.

    Args:
        right: bool array of shape (images,): whether the model is right.
        labels: int64 array of shape (images,): the true classes.
        clusters: The cluster of each image: images of one cluster are not independent.
        inside: bool array of shape (images,): the images of the kind.
    """
    classes = int(labels.max()) + 1
    _, numbers = np.unique(clusters, return_inverse=True)
    units, unit_of = np.unique((numbers * classes + labels) * 2 + inside, return_inverse=True)
    value = np.bincount(unit_of, right) / np.bincount(unit_of)
    side, label, cluster = units % 2, units // 2 % classes, units // 2 // classes
    counts = np.bincount(label * 2 + side, minlength=2 * classes).reshape(classes, 2)
    weights = counts[:, 0] * counts[:, 1] / np.maximum(counts.sum(axis=1), 1)
    share = weights[label] / counts[label, side]

    def measure(number: int) -> Side:
        chosen = side == number
        total = share[chosen].sum()
        if not total:
            return Side(0.0, 0.0)
        accuracy = share[chosen] @ value[chosen] / total
        squares = np.sum(np.bincount(cluster[chosen], share[chosen]) ** 2)
        return Side(float(np.clip(accuracy, 0, 1)), float(total**2 / squares))

    return measure(1), measure(0)


def difference_interval(inside: Side, outside: Side, level: float) -> tuple[float, float]:
    """Return the interval of the accuracy outside minus that inside, -1 to 1.

    It is made of the exact binomial intervals of both (Clopper and Pearson, Biometrika 26, 1934),
    which have a width even where all images are right, or all wrong. Source: Zou and Donner,
    Construction of confidence limits about effect measures: a general approach, Statistics in
    Medicine 27, 2008. If there is no difference, `low` is above 0 with a probability of at most
    0.9 (1 - level), mostly half of that, for 8 to 150 images inside and 30 to 2000 outside. With
    the method of Agresti and Caffo it is up to 3.2 (1 - level), at levels such as 99.75%; with
    Wilson intervals (Newcombe), more models without a weak spot had one than should.

    Args:
        inside: A kind of images, with a number above 0.
        outside: The rest, as well.
        level: 0 to 1.
    """
    low_in, high_in = _exact(inside, level)
    low_out, high_out = _exact(outside, level)
    difference = outside.accuracy - inside.accuracy
    return (
        float(difference - np.hypot(outside.accuracy - low_out, high_in - inside.accuracy)),
        float(difference + np.hypot(high_out - outside.accuracy, inside.accuracy - low_in)),
    )


def _exact(side: Side, level: float) -> tuple[float, float]:
    """Return the exact binomial interval, also for numbers with a fraction."""
    tail, hits = (1 - level) / 2, side.accuracy * side.number
    misses = side.number - hits
    low = beta.ppf(tail, hits, misses + 1) if hits > ROUNDING else 0
    high = beta.ppf(1 - tail, hits + 1, misses) if misses > ROUNDING else 1
    return float(low), float(high)


def kinds_by_manifest(dataset: "PreparedDataset", test: "Predictions") -> Iterator[Kind]:
    """Yield the sources, the sizes of groups, and thirds by the number of pixels of the files.

    Only what differs among the test images gives kinds.
    """
    rows = [dataset.rows[row] for row in test.rows]
    sources = np.array([row.source or "unknown" for row in rows])
    if len(np.unique(sources)) > 1:
        for source in np.unique(sources):
            yield Kind(f"source: {source}", sources == source)
    if any(row.group for row in rows):
        _, group, sizes = np.unique(test.clusters, return_inverse=True, return_counts=True)
        size = sizes[group]
        for name, low, high in (("1 image", 1, 1), ("2 to 5 images", 2, 5), ("6 or more", 6, None)):
            inside = (size >= low) & (size <= (high or size.max()))
            if inside.any() and not inside.all():
                yield Kind(f"group size: {name}", inside)
    pixels = np.array([float(row.width * row.height) for row in rows])
    yield from thirds("size", pixels)


def kinds_by_brightness(dataset: "PreparedDataset", test: "Predictions") -> Iterator[Kind]:
    """Yield thirds by the mean of the prepared image."""
    images = dataset.images
    yield from thirds("brightness", np.array([images[row].mean() for row in test.rows]))


def thirds(what: str, values: Floats) -> Iterator[Kind]:
    """Yield thirds; equal values stay together, so fewer different values give fewer parts."""
    third = np.digitize(values, np.quantile(values, (1 / 3, 2 / 3)), right=True)
    for number, name in enumerate(THIRDS[what]):
        if (third == number).any() and not (third == number).all():
            yield Kind(f"{what}: {name}", third == number)


def kinds_by_features(
    dataset: "PreparedDataset",
    classifier: "Classifier",
    train_features: Floats,
    test: "Predictions",
) -> Iterator[Kind]:
    """Yield clusters of what the model sees, apart from what decides its answer.

    The features decide the answer, so images at the border of two classes are close to each other,
    and would be a weak spot of every model. So the part of the features that follows the logits is
    subtracted (least squares on the training images). On 500 phantoms, a clean model had a weak
    spot among the clusters of its features, and none among those of what is left.
    """
    kernel = classifier.model.layers[-1].get_weights()[0]
    train, seen = (np.asarray(part, np.float64) for part in (train_features, test.features))
    centre = train.mean(axis=0)
    train, seen = train - centre, seen - centre
    slopes = np.linalg.lstsq(train @ kernel, train, rcond=None)[0]
    train, seen = train - train @ kernel @ slopes, seen - seen @ kernel @ slopes
    different = len(np.unique(train.round(4), axis=0))  # few if the model sees nothing
    number = min(MOST_CLUSTERS, len(test.rows) // PER_CLUSTER, different)
    if number < 2:
        return
    means = KMeans(number, n_init=10, random_state=0).fit(train)
    cluster = means.predict(seen)
    for index in range(number):
        members = np.flatnonzero(cluster == index)
        if not 0 < len(members) < len(seen):
            continue
        part = seen[members]  # images that no training image is like may be far from its centre
        typical = members[np.linalg.norm(part - part.mean(axis=0), axis=1).argsort()[:EXAMPLES]]
        yield Kind(
            f"cluster {index + 1} of {number}",
            cluster == index,
            dataset.classes[np.bincount(test.labels[members]).argmax()],
            tuple(dataset.rows[test.rows[image]].path for image in typical),
        )


def sentence(spot: Slice) -> str:
    """Return a weak spot in one sentence."""
    looks = f" (similar images, mostly {spot.mostly}, such as {', '.join(spot.examples)})"
    level = np.floor(1000 * spot.level + 1e-9) / 10  # never rounded up
    kinds = "kind of images was" if spot.tried == 1 else "kinds of images were"
    return (
        f"Weak spot: {spot.name}{looks if spot.mostly else ''}: accuracy {spot.inside:.3f} on "
        f"{spot.images} images, {spot.outside:.3f} on the others, with the same mix of classes; "
        f"the difference, {spot.difference:.3f} ({level:g}% interval {spot.low:.3f} to "
        f"{spot.high:.3f}; {spot.tried} {kinds} tried), is clearly above 0"
    )
