"""Measures what each augmentation preset does to the model and to the border probe.

    python benchmarks/presets.py /path/to/images [--seeds 3]

For each file of conf/augmentation: the test accuracy of `compact`; its accuracy where only the
border of the test images is left, and where only the border is hidden; and the accuracy of the
border probe, trained on images that the preset changed. Prints a Markdown table of means.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from project import Project
from run import dataset_overrides

from image_classifier import classifier
from image_classifier.config import CONF, compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.evaluation import metrics, probes
from image_classifier.training import checkpoint, fitting, job
from image_classifier.training.augmentation import DRAWS, augment

GREY = 128  # stands where the border or the middle is hidden
RIM = probes.RIM / probes.SIDE


def with_images(dataset: PreparedDataset, images: np.ndarray, file: Path) -> PreparedDataset:
    """Return the dataset with other pixels."""
    np.save(file, images)
    return replace(dataset, images_file=file)


def middle(images: np.ndarray) -> tuple[slice, slice, slice]:
    """Return where the border probe does not look."""
    height, width = images.shape[1:3]
    top, left = round(RIM * height), round(RIM * width)
    return np.s_[:], np.s_[top : height - top], np.s_[left : width - left]


def measure(settings: Config, dataset: PreparedDataset, work: Path) -> list[float]:
    """Return accuracy: on test images, on their border alone, without it, and of the probe."""
    only_border, no_border = dataset.images.copy(), np.full_like(dataset.images, GREY)
    inside = middle(only_border)
    no_border[inside] = only_border[inside]
    only_border[inside] = GREY
    model = fitting.compiled_model(settings, dataset)
    progress = checkpoint.Progress()
    fitting.fit(model, settings, dataset, work, progress)
    fitting.best_model(settings, dataset, work, progress).save(work / classifier.WEIGHTS)
    classifier.write_settings(work, job.classifier_settings(settings, dataset))
    best = classifier.Classifier.load(work)
    parts = [
        dataset,
        with_images(dataset, only_border, work / "only.npy"),
        with_images(dataset, no_border, work / "without.npy"),
    ]
    changed = dataset.images.copy()
    draws = np.random.default_rng(settings.training.seed).random((len(changed), DRAWS))
    for row in dataset.indices("train"):
        changed[row] = augment(changed[row], settings.augmentation, draws[row])
    probe = probes.run(with_images(dataset, changed, work / "changed.npy"), 1.0, 0.5)[1]
    accuracies = [metrics.measure(best, part, "test").figures["accuracy"] for part in parts]
    return [*accuracies, probe.accuracy]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="presets", description=__doc__)
    parser.add_argument("folder", type=Path, help="class folders, or train/ and test/ with them")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    overrides = dataset_overrides(arguments.folder.resolve())
    names = sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        project = Project(work / "project", *overrides)
        project.run("dvc", "repro", "prepare")
        os.chdir(project.folder)
        print("| preset | test | only the border | border hidden | border probe |")
        print("|---|---|---|---|---|")
        for name in names:
            rows = []
            for seed in range(arguments.seeds):
                choice = [*overrides, f"augmentation={name}", f"training.seed={seed}"]
                settings = compose.config_of(*choice)
                rows.append(measure(settings, load_prepared(settings), work))
            values = " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0))
            print(f"| {name} | {values} |", flush=True)


if __name__ == "__main__":
    main()
