"""Measures the pipeline against the article's way, side by side, on one folder of images.

    make bench DATASET=/path/to/images

Every row runs its two sides in turn, several times, in this one process, and gives the median of
each and their ratio. The reference is the article's way: Keras's ImageDataGenerator, which reads
and decodes every file in every epoch. The table goes to benchmarks/results.md and results.csv.
"""

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from PIL import Image

from image_classifier import batches, config, models, paths, prepare
from image_classifier.dataset import PreparedDataset, load_prepared
from image_classifier.fetch import fetch
from image_classifier.images import decode
from image_classifier.split import split

HERE = Path(__file__).parent
BATCH = 32
SIZE = (200, 200)


@dataclass
class Row:
    """One comparison; `ratio` is first ÷ second, both medians in `unit`."""

    what: str
    first: float
    second: float
    unit: str
    target: str

    @property
    def ratio(self) -> float:
        """First ÷ second."""
        return self.first / self.second


def in_turn(repeats: int, *sides: Callable[[], float]) -> list[float]:
    """Run the sides A B A B …, once to warm up and then `repeats` times; return their medians."""
    for side in sides:
        side()
    results = [[side() for side in sides] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*results, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def prepare_dataset(folder: Path) -> tuple[config.Config, PreparedDataset]:
    """Run fetch, split and prepare on a folder, in the working folder."""
    labels = sorted(path.name for path in folder.glob("train/*") if path.is_dir())
    labels = labels or sorted(path.name for path in folder.iterdir() if path.is_dir())
    positive = labels[0] if len(labels) == 2 else "null"
    settings = config.from_hydra(
        config.compose(
            ["model=article", "dataset=folder", "dataset.name=benchmark",
             f"dataset.path={folder}", f"dataset.positive_class={positive}"]
        )
    )  # fmt: skip
    fetch(settings)
    split(settings)
    prepare.prepare(settings)
    return settings, load_prepared(settings)


def article_generator(dataset: PreparedDataset) -> object:
    """Return the article's training generator over the training folder."""
    folder = paths.RAW / "train" if (paths.RAW / "train").is_dir() else paths.RAW
    generator = ImageDataGenerator(
        rescale=1 / 255, validation_split=0.2, zoom_range=0.2, horizontal_flip=True
    )
    return generator.flow_from_directory(
        folder,
        target_size=SIZE,
        subset="training",
        batch_size=BATCH,
        class_mode="binary" if len(dataset.classes) == 2 else "sparse",
    )


def article_model(
    dataset: PreparedDataset, rescaling: bool, settings: config.Config
) -> keras.Model:
    """Return the article's compiled CNN, for uint8 images or for the generator's floats."""
    model = models.build(settings.model, settings.image.shape, len(dataset.classes))
    if not rescaling:  # the generator has rescaled already
        inputs = keras.Input(settings.image.shape)
        x = inputs
        for layer in model.layers[2:]:
            x = layer(x)
        model = keras.Model(inputs, x)
    models.compile_for_training(model, settings.optimizer, 1)
    return model


def bench_prepare(dataset: PreparedDataset, repeats: int) -> Row:
    """Decode and resize: ours against Pillow's full decode, both on as many threads as cores."""
    files = [paths.RAW / row.path for row in dataset.rows[:200]]

    def full(path: Path) -> object:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BILINEAR))

    def images_per_second(read: Callable[[Path], object]) -> float:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return len(files) / seconds(lambda: list(pool.map(read, files)))

    ours, theirs = in_turn(
        repeats,
        lambda: images_per_second(lambda path: decode(path, *SIZE, 3)),
        lambda: images_per_second(full),
    )
    return Row("prepare ÷ Pillow's full decode, same threads", ours, theirs, "images/s", "≥ 1.6")


def bench_batches(settings: config.Config, dataset: PreparedDataset, repeats: int) -> Row:
    """Augmented batches without a model."""
    generator = article_generator(dataset)

    def ours() -> float:
        data = batches.training_batches(dataset, settings.augmentation, BATCH, 0, range(100))
        count = min(100, 100 * len(dataset.indices("train")) // BATCH)
        return count * BATCH / seconds(lambda: list(islice(data, count)))

    def theirs() -> float:
        return 4 * BATCH / seconds(lambda: [next(generator) for _ in range(4)])

    first, second = in_turn(repeats, ours, theirs)
    return Row("batches alone ÷ the article's generator", first, second, "images/s", "≥ 80")


def bench_epochs(settings: config.Config, dataset: PreparedDataset, repeats: int) -> list[Row]:
    """One epoch of the article's CNN: ours, the same steps from memory, and the article's way."""
    rows = dataset.indices("train")
    steps = len(rows) // BATCH
    chosen = rows[: steps * BATCH].reshape(steps, BATCH)
    images = tf.constant(dataset.images[chosen])
    labels = tf.constant(dataset.labels[chosen][..., None], tf.int32)
    in_memory = tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
    model = article_model(dataset, True, settings)
    float_model = article_model(dataset, False, settings)
    generator = article_generator(dataset)
    data = batches.training_batches(dataset, settings.augmentation, BATCH, 0, range(1000))

    def fit(trained: keras.Model, source: object) -> float:
        return seconds(lambda: trained.fit(source, steps_per_epoch=steps, verbose=0))

    ours, pure, theirs = in_turn(
        repeats,
        lambda: fit(model, data),
        lambda: fit(model, in_memory),
        lambda: fit(float_model, generator),
    )
    return [
        Row("training epoch ÷ same steps from memory (article CNN)", ours, pure, "s", "≤ 1.05"),
        Row("the article's epoch ÷ ours (article CNN)", theirs, ours, "s", "≥ 1.7"),
    ]


def write(rows: list[Row], folder: Path, dataset: PreparedDataset) -> str:
    """Write the table as Markdown and CSV; return the Markdown."""
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}, TensorFlow {tf.__version__}"
    lines = [f"{len(dataset.rows)} images of `{folder.name}`; {machine}.", ""]
    lines += [
        "| first ÷ second | first | second | unit | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = f"{row.first:.4g} | {row.second:.4g} | {row.unit} | {row.ratio:.2f} | {row.target}"
        lines.append(f"| {row.what} | {values} |")
    text = "\n".join(lines) + "\n"
    (HERE / "results.md").write_text(text)
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "first", "second", "unit", "ratio", "target"])
        for row in rows:
            writer.writerow([row.what, row.first, row.second, row.unit, row.ratio, row.target])
    return text


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    parser.add_argument("folder", type=Path, help="class folders, or train/ and test/ with them")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        settings, dataset = prepare_dataset(folder)
        rows = [
            bench_prepare(dataset, arguments.repeats),
            bench_batches(settings, dataset, arguments.repeats),
            *bench_epochs(settings, dataset, arguments.repeats),
        ]
        print(write(rows, folder, dataset))


if __name__ == "__main__":
    main()
