"""Comparison of `predict FOLDER --output` with decoding the same files and nothing else."""

import os
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from comparison import Row, compare, in_turn, seconds
from project import Project

from image_classifier.commands.predict import write_all
from image_classifier.tracking.verified_models import load_classifier

FILES = 1000  # at least: the last part is written while nothing is decoded


def measure_predict(project: Project, repeats: int) -> Row:
    """Compare images per second; the start of the command and loading the model do not count.

    The working folder is that of the project.
    """
    registered = project.read("build/evaluate/evaluated.json")
    classifier, version = load_classifier(f"models:/{registered['name']}/{registered['version']}")
    folder, output = project.folder / "many", project.folder / "many.csv"
    folder.mkdir()
    images = sorted(path for path in (project.folder / "build/raw").rglob("*") if path.is_file())
    files = []
    for number in range(-(-FILES // len(images)) * len(images)):
        path = images[number % len(images)]
        files.append(folder / f"{number:06}{path.suffix}")
        files[-1].hardlink_to(path)

    def decode(path: Path) -> None:
        classifier.decode(path)

    def decode_alone() -> float:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return len(files) / seconds(lambda: list(pool.map(decode, files)))

    def predict() -> float:
        output.unlink(missing_ok=True)
        arguments = Namespace(sources=[str(folder)], output=output, threshold=None, on=None)
        return len(files) / seconds(lambda: write_all(arguments, classifier, version))

    rounds = in_turn(repeats, predict, decode_alone)
    return compare("`predict FOLDER` ÷ decoding alone on all cores", rounds, "images/s", "≥ 0.85")
