"""Shortcut tests: what the trained model answers when a part of every test image is changed.

A probe asks whether the data contain a shortcut; these tests ask whether the model uses one. They
show it the test images with the centre hidden, with the border hidden, with the border of another
image, or stored like the file of another image. A model that uses the content gives nearly the
same answers whatever border or file it meets, and none that are right without the centre.

The two swaps have a control: the border, or the file, of another image of the same class. What a
swap itself changes, such as a seam, is then in both, and their difference is due to the class.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from image_classifier.data import images
from image_classifier.data.depth import is_deep
from image_classifier.data.images import Pixels, Rendering
from image_classifier.data.manifest import ImageRow
from image_classifier.errors import InputError
from image_classifier.evaluation.bootstrap import (
    area_ends,
    certain_mean_recall,
    is_certain,
    mean_recall_ends,
    resample,
    wider,
)
from image_classifier.evaluation.predictions import CHUNK, Predictions
from image_classifier.evaluation.probes import RIM, SIDE
from image_classifier.project import paths
from image_classifier.project.files import read_bytes

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.data.dataset import PreparedDataset

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Exact = Callable[[int, float], tuple[float, float]]  # of an answer, with a tail

DESCRIPTIONS = {
    "centre_hidden": "everything but the outer tenth at each side is hidden",
    "border_hidden": "the outer tenth at each side is hidden",
    "other_border": "the outer tenth at each side is that of an image of another class",
    "other_file": "the file has the format, size, compression and colour mode of an image of "
    "another class",
}

FILES = 500  # so many test images are encoded again at most: it takes about 0.1 s each
AVERAGED = 200  # so many training images of each class make the mean image
JPEG = ("JPEG", "MPO")
METRICS = ("balanced_accuracy", "roc_auc")
# Bonferroni: either metric can make a test suspicious, so each decides by a 97.5% interval
ONE_OF_TWO = 0.025 / len(METRICS)
BLOCK = 100  # bootstrap samples at a time: limits the memory
GREY, PALETTE = ("L", "LA", "1"), ("P", "PA")  # modes of Pillow


@dataclass(frozen=True)
class Metric:
    """One metric of the model on changed images. Intervals are 95% intervals, see `_ends`.

    Attributes:
        value: With the changed images, 0 to 1.
        low: Lower end of its interval.
        high: Upper end of its interval.
        chance: What guessing reaches.
        model: The value with the same images, unchanged.
        same_class: In a swap, the value with the control.
        difference: In a swap, `same_class` minus `value`.
        difference_low: Lower end of the difference's interval; the differences are paired.
        difference_high: Upper end of the difference's interval.
        share: The lead over chance, or in a swap the difference, as a fraction of the model's lead
            over chance; None if the model is not above chance.
        suspicious: Whether this metric shows that the model uses a shortcut.
    """

    value: float | None
    low: float | None
    high: float | None
    chance: float
    model: float | None
    same_class: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    share: float | None
    suspicious: bool


@dataclass(frozen=True)
class ShortcutTest:
    """What the model answers for one kind of changed images.

    Attributes:
        name: A key of `DESCRIPTIONS`.
        images: The number of images that were changed.
        flipped: How many of them have another prediction than unchanged.
        became_donor: In a swap, how many predictions became the class that the border or the file
            is from.
        balanced_accuracy: The mean recall of the classes; None if no image could be changed.
        roc_auc: The area under the ROC curve; for more than two classes the mean of each class
            against the rest.
        suspicious: Whether one of the two metrics is.
        remarks: What was left out, and why nothing is judged, as sentences.
    """

    name: str
    images: int
    flipped: int
    became_donor: int | None
    balanced_accuracy: Metric | None
    roc_auc: Metric | None
    suspicious: bool
    remarks: list[str]


def run_shortcut_tests(
    dataset: "PreparedDataset",
    classifier: "Classifier",
    test: Predictions,
    shortcut_threshold: float,
) -> list[ShortcutTest]:
    """Show the model the test images in changed forms, and measure what changes.

    `centre_hidden` is suspicious if the model is above chance without the centre, and its lead over
    chance is at least `shortcut_threshold` of its lead with the whole images. A swap is suspicious
    if the model is better with the border, or the file, of the same class than with those of
    another, by at least that share of its lead. Either counts in balanced accuracy or in ROC-AUC:
    without the centre all answers may become one class, though the ranking still separates the
    classes. The intervals that decide are therefore 97.5% intervals (Bonferroni). `border_hidden`
    is never suspicious: a hidden border also hides content. A model that is itself not above
    chance has no lead, so then nothing is suspicious.

    Args:
        dataset: The prepared images. `other_file` reads the files in build/raw.
        classifier: The model.
        test: Its predictions for the test images.
        shortcut_threshold: A share of the model's lead over chance, 0 to 1.

    Raises:
        InputError: a file in build/raw was deleted or changed after split.
    """
    whole = _Sample(dataset, classifier, test)
    return [
        *_hidden(whole, shortcut_threshold),
        _other_border(whole, shortcut_threshold),
        _other_file(whole, shortcut_threshold),
    ]


class _Sample:
    """The test images, and what the model answers for them; by position in `test`."""

    def __init__(
        self, dataset: "PreparedDataset", classifier: "Classifier", test: Predictions
    ) -> None:
        self.dataset, self.classifier, self.test = dataset, classifier, test
        self.clusters = test.clusters

    def row(self, position: int) -> ImageRow:
        return self.dataset.rows[int(self.test.rows[position])]

    def pixels(self, position: int) -> Pixels:
        return np.asarray(self.dataset.images[self.test.rows[position]])

    def answers(self, number: int, change: Callable[[int], Pixels]) -> Floats:
        """Return the probabilities of changed images: float array of shape (number, classes)."""
        parts = []
        with ThreadPoolExecutor() as pool:  # Pillow releases Python's lock
            for start in range(0, number, CHUNK):
                changed = list(pool.map(change, range(start, min(start + CHUNK, number))))
                parts.append(self.classifier.probabilities(np.stack(changed)))
        return np.concatenate(parts)


def border_mask(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return where the border probe sees an image: bool array of shape (height, width)."""
    down, across = (max(1, round(length * RIM / SIDE)) for length in (height, width))
    mask = np.ones((height, width), bool)
    mask[down:-down, across:-across] = False
    return mask


def mean_image(dataset: "PreparedDataset") -> Pixels:
    """Return the mean of the classes' mean training images: uint8, (height, width, channels).

    It hides a part of an image: a CNN finds in it what all images have in common, and no edges
    and no brightness that it has never met. Every class counts the same.
    """
    generator = np.random.default_rng(0)
    train = dataset.indices("train")
    means = []
    for index in np.unique(dataset.labels[train]):
        rows = train[dataset.labels[train] == index]
        rows = np.sort(generator.permutation(rows)[:AVERAGED])
        total = np.zeros(dataset.images.shape[1:])
        for row in rows:
            total += dataset.images[row]
        means.append(total / len(rows))
    return np.asarray(np.rint(np.mean(means, axis=0)), np.uint8)


def _hidden(sample: _Sample, threshold: float) -> list[ShortcutTest]:
    mean = mean_image(sample.dataset)
    border = border_mask(*mean.shape[:2])[:, :, None]
    number = len(sample.test.rows)
    clusters = np.unique(sample.clusters, return_inverse=True)[1]
    found = []
    for name, shown in (("centre_hidden", border), ("border_hidden", ~border)):
        changed = sample.answers(
            number,
            lambda position, shown=shown: np.where(shown, sample.pixels(position), mean),  # type: ignore[misc]
        )
        found.append(_judge(name, sample, np.arange(number), clusters, changed, threshold, []))
    return found


def _other_border(sample: _Sample, threshold: float) -> ShortcutTest:
    border = border_mask(*sample.dataset.images.shape[1:3])[:, :, None]

    def paste(position: int, donor: int) -> Pixels:
        return np.where(border, sample.pixels(donor), sample.pixels(position))

    return _swap("other_border", sample, np.arange(len(sample.test.rows)), paste, threshold, [])


def _other_file(sample: _Sample, threshold: float) -> ShortcutTest:
    rows = [sample.row(position) for position in range(len(sample.test.rows))]
    eight_bits = np.flatnonzero([row.format != "DICOM" and not is_deep(row.mode) for row in rows])
    remarks = []
    if deep := len(rows) - len(eight_bits):
        remarks.append(
            f"{deep} test images are left out: they have more than 8 bits per channel, or are DICOM"
        )
    chosen = stratified(eight_bits, sample.test.labels[eight_bits], FILES)
    if len(chosen) < len(eight_bits):
        remarks.append(
            f"on a random sample of {len(chosen)} of {len(eight_bits)} test images, with the same "
            f"share of every class"
        )
    with ThreadPoolExecutor() as pool:
        of_files = pool.map(lambda position: file_facts(rows[position]), chosen)
        facts = dict(zip(chosen.tolist(), of_files, strict=True))

    def store(position: int, donor: int) -> Pixels:
        content = read_bytes(paths.RAW / rows[position].path)
        return sample.classifier.decode(encoded_like(content, facts[donor]))

    return _swap("other_file", sample, chosen, store, threshold, remarks)


def stratified(positions: Integers, labels: Integers, number: int) -> Integers:
    """Return about `number` of the positions, sorted: of every class the same share, at least 2.

    Args:
        positions: int64 array of shape (images,).
        labels: int64 array of shape (images,): their classes.
        number: How many are wanted; all are returned if there are not more.
    """
    if len(positions) <= number:
        return positions
    generator = np.random.default_rng(0)
    parts = []
    for index in np.unique(labels):
        of_class = positions[labels == index]
        size = max(2, round(number * len(of_class) / len(positions)))
        parts.append(generator.permutation(of_class)[:size])
    return np.sort(np.concatenate(parts))


@dataclass(frozen=True)
class FileFacts:
    """How a file stores an image with 8 bits per channel.

    Attributes:
        format: Pillow's name, such as JPEG.
        mode: Pillow's colour mode.
        width: Pixels of the upright image.
        height: Pixels of the upright image.
        tables: The quantisation tables of a JPEG, each with 64 values; otherwise None.
        sampling: The subsampling of its colours, as Pillow numbers it; -1 if there is none.
        colours: How many colours an image with a palette has, 1 to 256; otherwise 0.
    """

    format: str
    mode: str
    width: int
    height: int
    tables: list[list[int]] | None = None
    sampling: int = -1
    colours: int = 0


def file_facts(row: ImageRow) -> FileFacts:
    """Return how the file of an image stores it; the image has 8 bits per channel.

    Raises:
        InputError: the file was deleted or changed after split.
    """
    path = paths.RAW / row.path
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise InputError(
            f"{path} was deleted or changed after split. To use the new files, run `dvc repro -f "
            f"-s split`; to restore the old ones, `dvc checkout {paths.RAW}`."
        )
    width, height = images.upright_size(content)
    facts = FileFacts(row.format, row.mode, width, height)
    if row.format in JPEG:
        with Image.open(io.BytesIO(content), formats=JPEG) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            tables = [list(table) for table in image.quantization.values()]
            return replace(facts, tables=tables, sampling=JpegImagePlugin.get_sampling(image))
    if row.mode in PALETTE:
        pixels = images.decode(content, Rendering(height, width, 3))
        return replace(facts, colours=min(256, len(np.unique(pixels.reshape(-1, 3), axis=0))))
    return facts


def encoded_like(content: bytes, facts: FileFacts) -> bytes:
    """Return an encoded image, encoded again as another file is.

    It gets the other's size, colour mode and compression. With the tables of a JPEG it loses what
    the other file has lost. The files of WebP and AVIF do not say how much they have lost, so these
    are encoded with Pillow's default quality. All other formats lose nothing, which PNG also does.

    Args:
        content: The image, with 8 bits per channel.
        facts: How the other file stores its image.

    Raises:
        UnreadableImage: the content cannot be decoded.
    """
    channels = 1 if facts.mode in GREY else 3
    pixels = images.decode(content, Rendering(facts.height, facts.width, channels))
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    if facts.mode in PALETTE:
        image = image.quantize(facts.colours)
    elif facts.mode in ("1", "CMYK"):
        image = image.convert(facts.mode)
    file = io.BytesIO()
    if facts.tables:
        image.save(file, "JPEG", qtables=facts.tables, subsampling=facts.sampling)
    elif facts.format in ("WEBP", "AVIF"):
        image.save(file, facts.format)
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True)
class Donors:
    """For each image, the images whose border or file it gets; arrays of shape (images,).

    Attributes:
        same: int64: an image of the same class; -1 if there is none.
        other: int64: an image of another class; -1 if there is none.
        clusters: int64: images with the same number are not independent.
    """

    same: Integers
    other: Integers
    clusters: Integers


def draw_donors(labels: Integers, clusters: Sequence[str]) -> Donors:
    """Choose at random, with a fixed seed, for each image an image of its class and of another.

    A donor is of another cluster (such as a patient) than the image, and all images of one cluster
    and class have the same cluster as donor. Donors are used in turns, so that a class that is
    large enough gives each only once. Where a class is small, its images are used several times,
    and the results with the same donor are not independent: then they count as one cluster.

    Args:
        labels: int64 array of shape (images,).
        clusters: One text for each image.
    """
    generator = np.random.default_rng(0)
    units: dict[tuple[int, str], list[int]] = {}
    for position, unit in enumerate(zip(labels.tolist(), clusters, strict=True)):
        units.setdefault(unit, []).append(position)
    keys = list(units)
    donors = np.full((2, len(labels)), -1, np.int64)
    donor_units = np.zeros(len(labels), np.int64)
    for label in np.unique(labels).tolist():
        turns = [keys[number] for number in generator.permutation(len(keys))]
        own = [key for key in turns if key[0] == label]
        rest = [key for key in turns if key[0] != label]
        for number, (_, cluster) in enumerate(own):
            members = units[label, cluster]
            for kind, pool, start in ((0, own, number + 1), (1, rest, number)):
                in_turn = (pool[(start + step) % len(pool)] for step in range(len(pool)))
                chosen = next((key for key in in_turn if key[1] != cluster), None)
                if chosen is None:
                    continue
                given = units[chosen]
                donors[kind, members] = [given[i % len(given)] for i in range(len(members))]
                if kind == 1:
                    donor_units[members] = keys.index(chosen)
    of_images = np.unique(clusters, return_inverse=True)[1]
    nodes = of_images.max() + 1 + len(keys)
    links = (np.ones(len(labels)), (of_images, of_images.max() + 1 + donor_units))
    joined = connected_components(coo_array(links, (nodes, nodes)), directed=False)[1]
    return Donors(donors[0], donors[1], joined[of_images].astype(np.int64))


def _swap(
    name: str,
    sample: _Sample,
    positions: Integers,
    change: Callable[[int, int], Pixels],
    threshold: float,
    remarks: list[str],
) -> ShortcutTest:
    """Change the images at some positions by an image of the same class, and by one of another."""
    nothing = ShortcutTest(name, 0, 0, 0, None, None, False, remarks)
    if not len(positions):
        remarks.append("no test image is left, so nothing was tested")
        return nothing
    labels = sample.test.labels[positions]
    donors = draw_donors(labels, [sample.clusters[position] for position in positions])
    usable = (donors.same >= 0) & (donors.other >= 0)
    if lacking := int(np.sum(~usable)):
        remarks.append(f"{lacking} test images are left out: their class has no second test image")
    if not usable.any():
        remarks.append("no test image is left, so nothing was tested")
        return nothing
    chosen = positions[usable]
    same, other = (
        sample.answers(
            len(chosen),
            lambda number, given=given: change(int(chosen[number]), int(given[number])),  # type: ignore[misc]
        )
        for given in (positions[donors.same[usable]], positions[donors.other[usable]])
    )
    return _judge(
        name, sample, chosen, donors.clusters[usable], other, threshold, remarks,
        same=same, donors=labels[donors.other[usable]],
    )  # fmt: skip


def _judge(
    name: str,
    sample: _Sample,
    positions: Integers,
    clusters: Integers,
    changed: Floats,
    threshold: float,
    remarks: list[str],
    *,
    same: Floats | None = None,
    donors: Integers | None = None,
) -> ShortcutTest:
    """Compare the answers for changed images with those for the unchanged ones.

    Args:
        name: The test's name.
        sample: The model and its test images.
        positions: Which images were changed.
        clusters: int64 array of shape (positions,).
        changed: Probabilities, float array of shape (positions, classes).
        threshold: See `run_shortcut_tests`.
        remarks: What is already known to be said.
        same: In a swap, the probabilities with the control.
        donors: In a swap, int64 array of shape (positions,): the class of each donor.
    """
    labels, before = sample.test.labels[positions], sample.test.predicted[positions]
    predicted = sample.classifier.decide(changed)
    answers = [(sample.test.probabilities[positions], before), (changed, predicted)]
    if same is not None:
        answers.append((same, sample.classifier.decide(same)))
    samples = (np.arange(len(labels)), *resample([str(number) for number in clusters]))
    draws = {metric: np.empty((len(samples), len(answers))) for metric in METRICS}
    for start in range(0, len(samples), BLOCK):
        block = slice(start, start + BLOCK)
        weights = np.array(
            [np.bincount(rows, minlength=len(labels)) for rows in samples[block]], np.float64
        )
        for number, (probabilities, calls) in enumerate(answers):
            draws["balanced_accuracy"][block, number] = weighted_balanced_accuracy(
                weights, labels, calls
            )
            draws["roc_auc"][block, number] = weighted_roc_auc(weights, labels, probabilities)

    def exact(metric: str, number: int, tail: float) -> tuple[float, float]:
        calls, area = answers[number][1], float(draws["roc_auc"][0, number])
        if metric == "balanced_accuracy":
            return mean_recall_ends(labels, calls, clusters.tolist(), 1 - 2 * tail)
        independent = [len(np.unique(clusters[labels == index])) for index in np.unique(labels)]
        if changed.shape[1] == 2 and len(independent) == 2:
            return area_ends(area, independent[1], independent[0], 1 - 2 * tail)
        if not np.isclose(area, 1, rtol=0, atol=1e-9):
            return np.nan, np.nan
        return max(0.0, 2 * certain_mean_recall(independent, 1 - 2 * tail) - 1), 1.0

    chances = {"balanced_accuracy": 1 / changed.shape[1], "roc_auc": 0.5}
    found = {
        metric: _metric(
            values, chances[metric], partial(exact, metric), threshold,
            judged=name != "border_hidden",
        )
        for metric, values in draws.items()
    }  # fmt: skip
    if all(metric.share is None for metric in found.values()):
        remarks.append("the model itself is not above chance, so nothing can be suspicious")
    return ShortcutTest(
        name,
        len(positions),
        int(np.sum(predicted != before)),
        None if donors is None else int(np.sum((predicted == donors) & (before != donors))),
        found["balanced_accuracy"],
        found["roc_auc"],
        any(metric.suspicious for metric in found.values()),
        remarks,
    )


def _metric(
    draws: Floats,
    chance: float,
    exact: Exact,
    threshold: float,
    *,
    judged: bool,
) -> Metric:
    """Return one metric with its intervals and its verdict.

    Args:
        draws: float array of shape (1 + resamples, 2 or 3): the metric of the unchanged and of the
            changed images, and of the control; first of all images, then of bootstrap samples.
        chance: What guessing reaches.
        exact: Returns the interval of a column of `draws` that is not from the bootstrap.
        threshold: See `run_shortcut_tests`.
        judged: Whether the metric may be suspicious.
    """
    (model, value, *control), samples = draws[0], draws[1:].T
    low, high = _ends(samples[1], exact(1, 0.025))
    same = difference = difference_low = difference_high = np.nan
    lead, bound = value - chance, _ends(samples[1], exact(1, ONE_OF_TWO), ONE_OF_TWO)[0] - chance
    if control:
        same, lead = control[0], control[0] - value
        difference = lead
        difference_low, difference_high = _difference_ends(samples, exact)
        bound = _difference_ends(samples, exact, ONE_OF_TWO)[0]
    above = _ends(samples[0], exact(0, 0.025))[0] > chance
    share = lead / (model - chance) if above else np.nan
    return Metric(
        value=_known(value),
        low=_known(low),
        high=_known(high),
        chance=chance,
        model=_known(model),
        same_class=_known(same),
        difference=_known(difference),
        difference_low=_known(difference_low),
        difference_high=_known(difference_high),
        share=_known(share),
        suspicious=bool(judged and bound > 0 and share >= threshold),
    )


def _known(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _ends(samples: Floats, exact: tuple[float, float], tail: float = 0.025) -> tuple[float, float]:
    """Return the ends of an interval, each with this probability beyond it.

    The bootstrap knows too little uncertainty if few images are wrong, and none if all samples have
    the same value. So it is the wider one of its interval and of `exact`: see
    `bootstrap.mean_recall_ends` and `bootstrap.area_ends`. The mean area of more than two classes
    has only that for an area of 1: if all images are ranked rightly, some threshold also decides
    them rightly. With the recalls p and q there, the area is at least pq, which is at least
    p + q - 1.
    """
    if np.isnan(samples).all():
        return np.nan, np.nan
    low, high = (float(end) for end in np.nanquantile(samples, [tail, 1 - tail]))
    return wider((low, high), exact)


def _difference_ends(samples: Floats, exact: Exact, tail: float = 0.025) -> tuple[float, float]:
    """Return the ends of the interval of control minus changed; see `_metric` and `_ends`."""
    changed, same = samples[1], samples[2]
    difference = same - changed
    if np.isnan(difference).all():
        return np.nan, np.nan
    low, high = (float(end) for end in np.nanquantile(difference, [tail, 1 - tail]))
    if is_certain((low, high)) and high > 0:
        lowest, highest = exact(2, tail)[0], exact(1, tail)[1]
        return lowest - highest, 1.0
    return low, high


def weighted_balanced_accuracy(weights: Floats, labels: Integers, predicted: Integers) -> Floats:
    """Return the balanced accuracy of many bootstrap samples, float array of shape (samples,).

    The same as `metrics.balanced_accuracy`, for all samples at once.

    Args:
        weights: float array of shape (samples, images): how often a sample has each image.
        labels: int64 array of shape (images,).
        predicted: int64 array of shape (images,).
    """
    actual = labels[:, None] == np.unique(labels)
    right = actual & (predicted == labels)[:, None]
    return _mean_known(weights @ right, weights @ actual)


def weighted_roc_auc(weights: Floats, labels: Integers, probabilities: Floats) -> Floats:
    """Return the area under the ROC curve of many bootstrap samples; see above.

    The same as `roc_auc` and `roc_auc_macro` of `metrics.classification_metrics`: the share of the
    pairs of a positive and a negative image that are ranked rightly; ties count half (Hanley and
    McNeil, Radiology 143, 1982). NaN in a sample with one class only.
    """
    wins, pairs = [], []
    for index in np.unique(labels) if probabilities.shape[1] > 2 else [1]:
        order = np.argsort(probabilities[:, index], kind="stable")
        ranked = probabilities[order, index]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        positive, negative = (
            np.add.reduceat(weights[:, order] * chosen, starts, axis=1)
            for chosen in (labels[order] == index, labels[order] != index)
        )
        below = np.cumsum(negative, axis=1) - negative
        wins.append((positive * (below + negative / 2)).sum(axis=1))
        pairs.append(positive.sum(axis=1) * negative.sum(axis=1))
    return _mean_known(np.array(wins).T, np.array(pairs).T)


def _mean_known(parts: Floats, wholes: Floats) -> Floats:
    """Return the mean share of each row, without those of nothing; NaN where there is no other."""
    known = wholes > 0
    shares = np.where(known, parts / np.where(known, wholes, 1), 0)
    number = known.sum(axis=1)
    return np.where(number > 0, shares.sum(axis=1) / np.maximum(number, 1), np.nan)


def sentence(test: Mapping[str, Any]) -> str:
    """Return what a test found, as a sentence; `test` is an entry of `shortcut_tests` in a report.

    A sentence about a suspicious test says what follows from it.
    """
    remarks = f" ({'; '.join(test['remarks'])})" if test["remarks"] else ""
    if test["balanced_accuracy"] is None:
        return f"{WORDS[test['name']]}: nothing was measured{remarks}."
    score, area = test["balanced_accuracy"], test["roc_auc"]
    reached = f"a balanced accuracy of {_number(score)}, chance {score['chance']:.2g}"
    reached += f", and a ROC-AUC of {_number(area)}, chance 0.5"
    text = f"{WORDS[test['name']]}, the model reaches {reached}"
    if score["difference"] is not None:
        text += (
            f"; with that of the same class {_plain(score['same_class'])} and "
            f"{_plain(area['same_class'])}. Of {test['images']} predictions, "
            f"{test['became_donor']} became the class of the other image"
        )
    else:
        text += (
            f"; with the whole images {_plain(score['model'])} and {_plain(area['model'])}. "
            f"{test['flipped']} of {test['images']} predictions changed"
        )
    ending = f". {MEANINGS[test['name']]}" if test["suspicious"] else ""
    if ending and not score["suspicious"]:
        ending = (
            f". The probabilities shift, but the ROC-AUC shows that they tell the class{ending}"
        )
    return f"{text}{remarks}{ending}."


def short_sentence(test: Mapping[str, Any]) -> str:
    """Return in one sentence what a suspicious test found; for `test` see `sentence`."""
    score, area = test["balanced_accuracy"], test["roc_auc"]
    found = f"balanced accuracy {_number(score)}"
    if not score["suspicious"]:
        found = f"ROC-AUC {_number(area)}"
    if score["difference"] is None:
        return f"{WORDS[test['name']]}, the model still tells the classes apart: {found}."
    same = score["same_class"] if score["suspicious"] else area["same_class"]
    return (
        f"{WORDS[test['name']]}, {test['became_donor']} of {test['images']} predictions become "
        f"that class: {found}, with that of the same class {_plain(same)}."
    )


def _number(metric: Mapping[str, Any]) -> str:
    return f"{_plain(metric['value'])} ({_plain(metric['low'])} to {_plain(metric['high'])})"


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


WORDS = {
    "centre_hidden": "With the centre of every image hidden",
    "border_hidden": "With the border of every image hidden",
    "other_border": "With the border of an image of another class",
    "other_file": "With images stored like a file of another class",
}
MEANINGS = {
    "centre_hidden": "So the border alone tells the model much of what it knows about the class",
    "other_border": "So the answers depend on the class of the border",
    "other_file": "So the answers depend on how the files of a class are stored",
}
