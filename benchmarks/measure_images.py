"""Comparisons of the work on images before a model sees them: decoding and augmentation."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import article
import numpy as np
from comparison import Row, compare, in_turn, seconds
from PIL import Image

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import Rendering
from image_classifier.data.manifest import ImageRow
from image_classifier.project import paths
from image_classifier.stages.prepare import decode_row
from image_classifier.training import batches


def measure_prepare(dataset: PreparedDataset, repeats: int) -> Row:
    """Compare prepare's decoding with Pillow's, each with resizing and one thread per core."""
    rows = dataset.rows[:200]

    def ours(row: ImageRow) -> object:
        return decode_row(row, Rendering(*article.SIZE, 3))

    def full(row: ImageRow) -> object:
        with Image.open(paths.RAW / row.path) as image:
            return np.asarray(image.convert("RGB").resize(article.SIZE, Image.Resampling.BILINEAR))

    def images_per_second(read: Callable[[ImageRow], object]) -> float:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return len(rows) / seconds(lambda: list(pool.map(read, rows)))

    rounds = in_turn(repeats, lambda: images_per_second(ours), lambda: images_per_second(full))
    return compare(
        "prepare ÷ Pillow's full decode, same number of threads", rounds, "images/s", "≥ 1.6"
    )


def measure_batches(config: Config, dataset: PreparedDataset, repeats: int) -> Row:
    """Compare the augmented batches without a model; the first round starts both pipelines."""
    generator = article.generator("training", len(dataset.classes))
    config = config.model_copy(update={"training": config.training.with_batch_size(article.BATCH)})
    ours = iter(batches.training_batches(dataset, config, range(10**6)))

    def images_per_second(source: Iterator[Any], count: int) -> float:
        start = time.perf_counter()
        images = sum(len(images) for images, _ in islice(source, count))
        return images / (time.perf_counter() - start)

    rounds = in_turn(
        repeats,
        lambda: images_per_second(ours, 200),
        lambda: images_per_second(generator, 5),
    )
    return compare("batches alone ÷ the article's generator", rounds, "images/s", "≥ 80")
