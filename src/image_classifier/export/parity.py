"""Compares an exported model with the classifier that it was made from, on the test images."""

import hashlib
import io
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tqdm import tqdm

from image_classifier.classifier import BATCH, Classifier, Probabilities
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Pixels
from image_classifier.data.manifest import ImageRow
from image_classifier.errors import InputError
from image_classifier.export import run
from image_classifier.project import paths
from image_classifier.project.files import read_bytes
from image_classifier.project.text import counted

Rows = npt.NDArray[np.int64]

TIMED, WARM_UP = 100, 5  # images that are classified one at a time


class Limits(NamedTuple):
    """What an export may change: a probability by how much, and the answers of which share."""

    difference: float
    changed: float


FLOAT = Limits(1e-4, 0)
HALF = Limits(0.01, 0.01)  # the original model computes with 16 bits, the export with 32
INT8 = Limits(0.1, 0.01)  # a probability has 256 values, and each layer rounds


class FromFile(NamedTuple):
    """A file's content, and what `run.py` reads from it: pixels, or why it does not read it."""

    content: bytes
    pixels: Pixels | None
    refusal: str = ""


@dataclass(frozen=True)
class Answers:
    """What a classifier and its export say about the test images.

    Attributes:
        expected: The classifier's probabilities, float32 of shape (images, classes).
        found: Those of the export for the same pixels.
        from_files: Those of the export for the pixels that `run.py` reads from the files.
        read: bool of shape (images,): whether `run.py` reads the image's file.
        other_pixels: How many files it reads with other pixels than the classifier.
        missing: How many files are not in build/raw as they were split.
        refusals: Why it does not read the others, by their paths.
    """

    expected: Probabilities
    found: Probabilities
    from_files: Probabilities
    read: npt.NDArray[np.bool_]
    other_pixels: int
    missing: int
    refusals: dict[str, str]


@dataclass(frozen=True)
class Difference:
    """How much answers differ.

    Attributes:
        images: How many are compared.
        largest: The largest difference of a probability, 0 to 1; NaN if one is not a number.
        changed: How many images get another class.
    """

    images: int
    largest: float
    changed: int

    def problems(self, limits: Limits, what: str) -> list[str]:
        """Return which limits are exceeded, as sentences; `what` says what was classified."""
        allowed, found = self.allowed(limits), []
        if not self.largest <= limits.difference:  # NaN is never within it
            found.append(
                f"For {what} a probability differs by {self.largest:.2g}, the limit is "
                f"{limits.difference:g}."
            )
        if self.changed > allowed:
            found.append(
                f"For {what} {self.changed} of {counted(self.images, 'answer')} changed, "
                f"{allowed} may."
            )
        return found

    def allowed(self, limits: Limits) -> int:
        """Return how many answers may change."""
        return math.ceil(limits.changed * self.images)


@dataclass(frozen=True)
class Cost:
    """What classifying takes: bytes on disk, and milliseconds for one image at a time (median)."""

    size: int
    milliseconds: float


@dataclass(frozen=True)
class Measured:
    """How an export compares with its classifier.

    Attributes:
        model: How the answers differ for the same pixels.
        files: The same where `run.py` decodes the files; None if it reads none.
        before: What the classifier takes.
        after: What the export takes.
        limits: What may differ.
        problems: Which limits are exceeded, as sentences.
    """

    model: Difference
    files: Difference | None
    before: Cost
    after: Cost
    limits: Limits
    problems: list[str]


def read_file(row: ImageRow, rules: Mapping[str, Any]) -> FromFile | None:
    """Return what `run.py` reads from an image's file; None if it is not there as it was split.

    Args:
        row: The image.
        rules: `decoding` in model.json.
    """
    path = paths.RAW / row.path
    if not path.is_file():
        return None
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != row.sha256:
        return None
    try:
        return FromFile(content, run.decode(io.BytesIO(content), rules))
    except Exception as error:  # Pillow raises a dozen types
        return FromFile(content, None, str(error))


def load(folder: Path, pixels: Pixels) -> run.Runtime:
    """Return the model of an exported folder, as `run.py` loads it.

    Args:
        folder: The exported folder.
        pixels: Images to try it with: uint8 of shape (images, height, width, channels).

    Raises:
        InputError: it does not run.
    """
    try:
        _, runtime = run.load(folder)
        runtime(pixels)
    except Exception as error:  # each runtime has types of its own
        raise InputError(f"The exported model does not run ({error}).") from error
    return runtime


def compare(
    classifier: Classifier,
    runtime: run.Runtime,
    rules: Mapping[str, Any],
    dataset: PreparedDataset,
) -> Answers:
    """Return what a classifier and its export say about all test images.

    Args:
        classifier: The classifier.
        runtime: The export, as `run.py` loads it.
        rules: `decoding` in model.json.
        dataset: Its test images are compared, as they were prepared and from their files.
    """
    rows = dataset.indices("test")
    expected, found, from_files, read = [], [], [], []
    refusals: dict[str, str] = {}
    other_pixels = missing = 0
    bar = tqdm(range(0, len(rows), BATCH), "Comparing", disable=None)
    with ThreadPoolExecutor() as pool:
        for start in bar:
            part = rows[start : start + BATCH]
            pixels = np.array(dataset.images[part])
            expected.append(classifier.probabilities(pixels))
            found.append(runtime(pixels))
            files = pool.map(lambda row: read_file(dataset.rows[row], rules), part)
            for index, (row, file) in enumerate(zip(part, files, strict=True)):
                read.append(file is not None and file.pixels is not None)
                if file is None:
                    missing += 1
                elif file.pixels is None:
                    refusals[dataset.rows[row].path] = file.refusal
                elif not np.array_equal(file.pixels, pixels[index]):
                    other_pixels += 1
                    pixels[index] = file.pixels
            from_files.append(runtime(pixels))
    return Answers(
        np.concatenate(expected),
        np.concatenate(found),
        np.concatenate(from_files),
        np.array(read),
        other_pixels,
        missing,
        refusals,
    )


def measure(
    classifier: Classifier,
    model: keras.Model,
    runtime: run.Runtime,
    file: Path,
    answers: Answers,
    pixels: Pixels,
    limits: Limits,
) -> Measured:
    """Return how an export compares with its classifier.

    Args:
        classifier: The classifier.
        model: See `convert.answering_model`.
        runtime: The export, as `run.py` loads it.
        file: The export's file or folder.
        answers: From `compare`.
        pixels: Images to measure the time with: uint8 of shape (images, height, width, channels).
        limits: What may differ.
    """
    read = answers.read
    same = difference(classifier, answers.expected, answers.found)
    of_files = (
        difference(classifier, answers.expected[read], answers.from_files[read])
        if read.any()
        else None
    )
    problems = same.problems(limits, "the same pixels")
    if of_files:
        problems += of_files.problems(limits, "files that run.py decodes")
    weights = sum(values.nbytes for values in classifier.model.get_weights())
    size = sum(part.stat().st_size for part in [file, *file.rglob("*")] if part.is_file())
    before, after = milliseconds([graph_of(model), runtime], pixels)
    return Measured(same, of_files, Cost(weights, before), Cost(size, after), limits, problems)


def difference(classifier: Classifier, expected: Probabilities, found: Probabilities) -> Difference:
    """Return how much probabilities differ: two float arrays of shape (images, classes)."""
    changed = classifier.decide(expected) != classifier.decide(found)
    return Difference(len(expected), float(np.abs(expected - found).max()), int(changed.sum()))


def milliseconds(runtimes: Sequence[run.Runtime], pixels: Pixels) -> list[float]:
    """Return the median time to classify one image at a time, in milliseconds, of each runtime.

    They take turns, so that other work on the machine slows all of them.
    """
    seconds: list[list[float]] = [[] for _ in runtimes]
    for image in [*pixels[:WARM_UP], *pixels]:
        for runtime, times in zip(runtimes, seconds, strict=True):
            start = time.perf_counter()
            runtime(image[None])
            times.append(time.perf_counter() - start)
    return [1000 * statistics.median(times[WARM_UP:]) for times in seconds]


def graph_of(model: keras.Model) -> run.Runtime:
    """Return a Keras model as one function from pixels to probabilities."""
    shape = (None, *model.inputs[0].shape[1:])
    graph = tf.function(
        lambda batch: model(batch, training=False), input_signature=[tf.TensorSpec(shape, tf.uint8)]
    )
    return lambda pixels: np.asarray(graph(tf.constant(pixels)))


def spread(order: Rows, number: int) -> Rows:
    """Return so many values of an ordered array, evenly spread; all if there are fewer."""
    chosen = np.linspace(0, len(order) - 1, min(number, len(order))).round().astype(np.int64)
    return np.asarray(order[chosen])
