"""Measures which setting of image.fit suits which images.

    python benchmarks/fit.py /path/to/images … [--seeds 3]

For each folder and each value it trains `compact`, and measures balanced accuracy on the test
images. Prints a Markdown table; the trainings write to the error stream.
"""

import argparse
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

import numpy as np
from project import Project
from run import dataset_overrides

from image_classifier.config.compose import config_of
from image_classifier.data.dataset import load_prepared
from image_classifier.data.images import Fit
from image_classifier.evaluation.predictions import predict_split
from image_classifier.stages.train import train_model
from image_classifier.training import identity
from image_classifier.training.resume import ResumeState


def measure(overrides: list[str], work: Path) -> float:
    """Return the balanced accuracy of one training on the images that are prepared here."""
    config = config_of(*overrides, "model=compact")
    dataset = load_prepared(config)
    state = ResumeState("benchmark", identity.job_key(config, dataset), work, training_id="")
    with redirect_stdout(sys.stderr):
        classifier = train_model(config, dataset, work / "output", state).classifier
    return predict_split(classifier, dataset, "test").metrics["balanced_accuracy"]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="datasets of class folders")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each, default 3")
    arguments = parser.parse_args()
    print("| images | " + " | ".join(get_args(Fit)) + " |")
    print("|---|" + "---|" * len(get_args(Fit)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # one project for all: MLflow keeps the store of a process
        project = Project(Path(folder) / "project")
        os.chdir(project.folder)
        for images in [path.resolve() for path in arguments.folders]:
            cells = []
            for fit in get_args(Fit):
                overrides = [*dataset_overrides(images), f"image.fit={fit}"]
                project.configure(*overrides)
                project.run("dvc", "repro", "prepare")
                values = []
                for seed in range(arguments.seeds):
                    with tempfile.TemporaryDirectory(dir=folder) as work:
                        values.append(measure([*overrides, f"training.seed={seed}"], Path(work)))
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            print(f"| {images.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
