"""Compares the accuracy of the models, and of Keras's guide to transfer learning, on any images.

    python benchmarks/accuracy.py /path/to/images … --backbone /path/to/backbone.keras [--seeds 3]

Every training runs in a process of its own, on the same prepared images and the same split. The
table has, over all seeds: balanced accuracy and accuracy on the test images, with the 95% interval
of a bootstrap over these images; and the time, the CPU time and the peak memory of one training,
start of Python included. `compact` and `article` take images of 200 x 200 pixels, the others those
of the backbone. Prints a Markdown table; the trainings write to the error stream.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from project import Project
from run import dataset_overrides
from sklearn.metrics import balanced_accuracy_score

SAMPLES = 1000  # of the bootstrap

GUIDE = "Keras's guide"
# what each row trains: overrides; None: Keras's guide
MODELS: dict[str, list[str] | None] = {
    "article": ["model=article"],
    "compact": ["model=compact"],
    "pretrained, last layer": ["model=pretrained", "training.fine_tune=none"],
    "pretrained": ["model=pretrained"],
    GUIDE: None,
}


def train_once(name: str, overrides: list[str], folder: Path, started: float) -> None:
    """Train one model in the current folder's project; write what was measured as JSON.

    `started` is the time at which this process was started, in seconds since 1970.
    """
    import keras_guide

    from image_classifier.config.compose import config_of
    from image_classifier.data.dataset import load_prepared
    from image_classifier.evaluation.predictions import predict_split
    from image_classifier.stages.train import train_model
    from image_classifier.training import identity
    from image_classifier.training.resume import ResumeState

    config = config_of(*overrides)
    dataset = load_prepared(config)
    with redirect_stdout(sys.stderr):
        if name == GUIDE:
            predicted = keras_guide.train(config, dataset).argmax(1)
        else:
            state = ResumeState("benchmark", identity.job_key(config, dataset), folder, "")
            classifier = train_model(config, dataset, folder / "output", state).classifier
            predicted = predict_split(classifier, dataset, "test").predicted
    usage = resource.getrusage(resource.RUSAGE_SELF)
    measured = {
        "predicted": predicted.tolist(),
        "labels": dataset.labels[dataset.indices("test")].tolist(),
        "seconds": time.time() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024),
    }
    (folder / "measured.json").write_text(json.dumps(measured))


def scores(predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> list[str]:
    """Return balanced accuracy and accuracy, means over the seeds, with their 95% intervals.

    Args:
        predicted: int64 array of shape (seeds, images).
        labels: int64 array of shape (images,).
    """

    def both(rows: npt.NDArray[np.int64]) -> list[float]:
        balanced = [balanced_accuracy_score(labels[rows], seed[rows]) for seed in predicted]
        return [float(np.mean(balanced)), float(np.mean(predicted[:, rows] == labels[rows]))]

    generator = np.random.default_rng(0)
    drawn = [both(generator.integers(0, len(labels), len(labels))) for _ in range(SAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [
        f"{value:.3f} ({a:.3f} to {b:.3f})"
        for value, a, b in zip(both(np.arange(len(labels))), low, high, strict=True)
    ]


def measure(name: str, overrides: list[str], seeds: int, work: Path) -> str:
    """Return the row of a model, on the images that are prepared in the current folder."""
    results: list[dict[str, Any]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            chosen = json.dumps([*overrides, f"training.seed={seed}"])
            # no features of an earlier row: each training pays for its own
            shutil.rmtree("runs/features", ignore_errors=True)
            command = [sys.executable, __file__, "--one", name, chosen, folder, str(time.time())]
            subprocess.run(command, check=True, stdout=sys.stderr)
            results.append(json.loads((Path(folder) / "measured.json").read_text()))
    predicted = np.array([result["predicted"] for result in results])
    balanced = [balanced_accuracy_score(results[0]["labels"], seed) for seed in predicted]
    means = [
        f"{np.mean([result[key] for result in results]):.0f}"
        for key in ("seconds", "cpu_seconds", "peak_mib")
    ]
    each = " ".join(f"{value:.3f}" for value in balanced)
    cells = [*scores(predicted, np.array(results[0]["labels"])), each, *means]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="datasets of class folders")
    parser.add_argument("--backbone", type=Path, required=True, help="a .keras file")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each, default 3")
    parser.add_argument("--set", nargs="+", default=[], help="settings that all models get")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    backbone = f"model.backbone={arguments.backbone.resolve()}"
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project")
        os.chdir(project.folder)
        os.environ |= project.environment
        for images in [path.resolve() for path in arguments.folders]:
            print(f"\n{images.name}, {arguments.seeds} seeds\n")
            print("| model | balanced accuracy | accuracy | each seed | s | CPU s | MiB |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for name in arguments.models:
                chosen = MODELS[name] or ["model=pretrained"]
                of_backbone = [backbone] if "model=pretrained" in chosen else []
                overrides = [*dataset_overrides(images), *chosen, *of_backbone, *arguments.set]
                project.configure(*overrides)
                project.run("dvc", "repro", "prepare")
                print(measure(name, overrides, arguments.seeds, Path(folder)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _, _, name, overrides, folder, started = sys.argv
        train_once(name, json.loads(overrides), Path(folder), float(started))
    else:
        main()
