"""Compares this project with the article's way, on one folder of images.

    make bench DATASET=/path/to/images      (default: the embedded, synthetic dataset)

Each row of the table compares two sides on the same images. The sides run alternately, several
times; the row has the median of each side and of their ratio. article.py is the article's way.
Writes the table to benchmarks/results.md and results.csv.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from comparison import Row, write
from measure_images import measure_batches, measure_prepare
from measure_pipeline import (
    measure_memory,
    measure_nothing_to_do,
    measure_sweep,
    measure_train_stage,
)
from measure_predict import measure_predict
from measure_serving import measure_serving
from measure_training import measure_epochs, measure_time_to_accuracy
from project import ROOT, Project

from image_classifier.config.compose import config_of
from image_classifier.data.dataset import load_prepared


def dataset_overrides(folder: Path) -> list[str]:
    """Return the overrides that make a folder of images the dataset."""
    top = folder / "train" if (folder / "train").is_dir() else folder
    labels = sorted(path.name for path in top.iterdir() if path.is_dir())
    positive = labels[0] if len(labels) == 2 else "null"
    return [
        "dataset=folder",
        "dataset.name=benchmark",
        f"dataset.path={folder}",
        f"dataset.positive_class={positive}",
    ]


def measure(folder: Path, work: Path, repeats: int) -> Iterator[Row]:
    """Yield every row of the table."""
    overrides = dataset_overrides(folder)
    project = Project(work / "project", *overrides)
    project.run("dvc", "repro")
    os.chdir(project.folder)
    config = config_of(*overrides, "model=article")
    dataset = load_prepared(config)
    yield measure_nothing_to_do(project, repeats)
    yield from measure_serving(project, repeats)
    yield measure_predict(project, repeats)
    yield measure_prepare(dataset, repeats)
    yield measure_batches(config, dataset, repeats)
    rows, epoch_from_memory = measure_epochs(config, dataset, repeats)
    yield from rows
    yield measure_train_stage(project, overrides, epoch_from_memory, repeats)
    yield measure_time_to_accuracy(overrides, repeats)
    yield measure_sweep(project, overrides, repeats)
    yield from measure_memory(work)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="contains class folders, or train/ and test/ with class folders"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each row, default 3")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    images = f"`{folder.name}`" + (" (synthetic phantoms)" if folder == ROOT / "data" else "")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for row in measure(folder, Path(work), arguments.repeats):
            rows.append(row)
            print(f"{row.what}: {row.ratio:.3g} (target {row.target})", flush=True)
    print(write(rows, images, Path(__file__).parent))


if __name__ == "__main__":
    main()
