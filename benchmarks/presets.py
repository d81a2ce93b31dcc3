"""Measures how each augmentation preset changes the model and the border probe.

    python benchmarks/presets.py /path/to/images [--seeds 3]

For each file of conf/augmentation it trains `compact`, and measures four accuracies on the test
images: of the model; of the model when it sees only the border; of the model when the border is
hidden; and of the border probe, trained on images with this augmentation.

Prints a Markdown table with the means over the seeds; the trainings write to the error stream.
"""

import argparse
import os
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
from project import Project
from run import dataset_overrides

from image_classifier.config.compose import CONF, config_of
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.evaluation import probes
from image_classifier.evaluation.predictions import predict_split
from image_classifier.stages.train import train_model
from image_classifier.training import identity
from image_classifier.training.augmentation import augment
from image_classifier.training.batches import draw_epoch
from image_classifier.training.resume import ResumeState

GREY = 128  # replaces the pixels that are hidden
RIM = probes.RIM / probes.SIDE


def with_images(dataset: PreparedDataset, images: np.ndarray, file: Path) -> PreparedDataset:
    """Return the dataset with other pixels, which are written to a file."""
    np.save(file, images)
    return replace(dataset, images_file=file)


def middle(images: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the part of the images that the border probe does not see."""
    height, width = images.shape[1:3]
    top, left = round(RIM * height), round(RIM * width)
    return np.s_[:], np.s_[top : height - top], np.s_[left : width - left]


def measure(config: Config, dataset: PreparedDataset, work: Path) -> list[float]:
    """Return the four accuracies, in the order of the table; `work` is an empty folder."""
    only_border, no_border = dataset.images.copy(), np.full_like(dataset.images, GREY)
    inside = middle(only_border)
    no_border[inside] = only_border[inside]
    only_border[inside] = GREY
    test_images = [
        dataset,
        with_images(dataset, only_border, work / "only_border.npy"),
        with_images(dataset, no_border, work / "no_border.npy"),
    ]
    state = ResumeState("benchmark", identity.job_key(config, dataset), work, training_id="")
    with redirect_stdout(sys.stderr):
        classifier = train_model(config, dataset, work / "output", state).classifier

    augmented = dataset.images.copy()
    draws = draw_epoch(config.training.seed, 0, len(augmented)).draws
    for row in dataset.indices("train"):
        of_row = {name: values[row] for name, values in draws.items()}
        augmented[row] = augment(augmented[row], config.augmentation, of_row)
    results = probes.run_probes(
        with_images(dataset, augmented, work / "augmented.npy"),
        model_score=1.0,
        shortcut_threshold=0.5,
    )
    return [
        *(predict_split(classifier, part, "test").metrics["accuracy"] for part in test_images),
        *(probe.balanced_accuracy for probe in results if probe.name == "border"),
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="contains class folders, or train/ and test/ with class folders"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each preset, default 3")
    arguments = parser.parse_args()
    overrides = dataset_overrides(arguments.folder.resolve())
    names = sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", *overrides)
        project.run("dvc", "repro", "prepare")
        os.chdir(project.folder)
        print("| preset | test | only the border | border hidden | border probe |")
        print("|---|---|---|---|---|", flush=True)
        for name in names:
            rows = []
            for seed in range(arguments.seeds):
                choice = [*overrides, f"augmentation={name}", f"training.seed={seed}"]
                config = config_of(*choice, "model=compact")
                with tempfile.TemporaryDirectory(dir=folder) as work:
                    rows.append(measure(config, load_prepared(config), Path(work)))
            values = " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0))
            print(f"| {name} | {values} |", flush=True)


if __name__ == "__main__":
    main()
