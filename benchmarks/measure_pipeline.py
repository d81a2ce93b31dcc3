"""Comparisons of whole commands: the train stage, a sweep, memory, and an up-to-date pipeline."""

import functools
import shutil
import sys
from pathlib import Path

import mlflow
from comparison import Row, compare, seconds
from project import Project

from phantoms import dataset


def measure_train_stage(
    project: Project, overrides: list[str], epoch_from_memory: float, repeats: int
) -> Row:
    """Measure the train stage in DVC: 10 epochs of the article's CNN, start-up included."""
    project.configure(*overrides, "model=article", "training.epochs=10")
    stage = ["dvc", "repro", "--single-item", "--force", "train"]
    rounds = []
    for _ in range(repeats):
        # without the stage `evaluate`, a round would continue the training of the previous one
        shutil.rmtree(project.folder / "runs" / "unfinished", ignore_errors=True)
        rounds.append((seconds(lambda: project.run(*stage)), 10 * epoch_from_memory))
    project.configure(*overrides)
    return compare("train stage of 10 epochs ÷ 10 epochs from memory", rounds, "s", "≤ 1.15")


def measure_sweep(project: Project, overrides: list[str], repeats: int) -> Row:
    """Compare a sweep of eight compact models in one process with the sum of their fits."""
    client = mlflow.MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    command = [sys.executable, "-m", "image_classifier", "train", "--multirun", *overrides]
    rounds = []
    for number in range(repeats):
        # other seeds in each round: a finished job is not trained again
        seeds = ",".join(map(str, range(8 * number, 8 * number + 8)))
        words = ["model=compact", f"training.seed={seeds}"]
        wall = seconds(functools.partial(project.run, *command, *words))
        jobs = client.search_runs(["1"], "tags.overrides LIKE '%seed%'", max_results=8)
        rounds.append((wall, sum(job.data.metrics["fit_seconds"] for job in jobs)))
    return compare("sweep of 8 compact jobs ÷ the sum of their fits", rounds, "s", "≤ 1.25")


def measure_memory(work: Path) -> list[Row]:
    """Compare the peak memory of the stages prepare and train with 2,800 and with 280 phantoms."""
    projects = []
    for name, train, test in (("many", 1000, 400), ("few", 100, 40)):
        dataset.write_dataset(work / name, train, test, 0)
        project = Project(
            work / f"{name}-project", "dataset=folder", f"dataset.name={name}",
            f"dataset.path={work / name}", "dataset.positive_class=COVID19", "training.epochs=2",
        )  # fmt: skip
        project.run("dvc", "repro", "split")
        projects.append(project)
    return [
        compare(
            f"peak memory of {stage}: 2,800 ÷ 280 images (phantoms)",
            [[project.peak_memory("dvc", "repro", "-s", "-f", stage) for project in projects]],
            "MiB",
            "≤ 1.15",
        )
        for stage in ("prepare", "train")
    ]


def measure_nothing_to_do(project: Project, repeats: int) -> Row:
    """Compare `dvc repro` with one second when every stage is up to date."""
    project.run("dvc", "repro")
    rounds = [(seconds(lambda: project.run("dvc", "repro")), 1.0) for _ in range(repeats)]
    return compare("`dvc repro` with nothing to do ÷ one second", rounds, "s", "≤ 3")
