"""What a sweep found: a table of its jobs, plots, and a text for its page in the MLflow UI."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Run

from image_classifier.config.schema import sign_of
from image_classifier.data.manifest import read_manifest
from image_classifier.evaluation.bootstrap import intervals
from image_classifier.evaluation.predictions import Predictions
from image_classifier.evaluation.spread import Difference, Result, Spread, difference, spread
from image_classifier.project.text import counted
from image_classifier.sweeps import plots
from image_classifier.tracking import repeats, runs
from image_classifier.tracking.out_of_fold import original_of, out_of_fold

CHANCE = ("training.seed", "training.fold")  # jobs that differ only in these differ by chance
COSTS = ("train_seconds", "cpu_seconds", "stored_bytes")
LISTED = 20  # rows of the table on the page; results.csv has all
COLUMNS = 8
SHORT = 8  # characters of a value that is written as it is


@dataclass(frozen=True)
class Recipe:
    """Finished jobs that differ only in seed and fold.

    Attributes:
        settings: Those that distinguish it from the other recipes of the sweep.
        jobs: Their runs.
        results: What each reached.
        spread: How much that varies.
    """

    settings: dict[str, str]
    jobs: list[Run]
    results: list[Result]
    spread: Spread

    @property
    def name(self) -> str:
        """The settings in one line."""
        return " ".join(f"{name}={value}" for name, value in self.settings.items()) or "all jobs"


def settings_of(job: Run) -> dict[str, str]:
    """Return the overrides of a job, by name."""
    pairs = (word.partition("=") for word in runs.overrides_of(job))
    return {name.lstrip("+"): value for name, _, value in pairs}


def shortened(value: str) -> str:
    """Return a setting for people: a number with four significant digits."""
    numbers = plots.as_numbers([value])
    return value if numbers is None or len(value) <= SHORT else f"{numbers[0]:.4g}"


def varied(jobs: Sequence[Run]) -> list[str]:
    """Return the names of the settings that differ between the jobs, in the command's order."""
    settings = [settings_of(job) for job in jobs]
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({each.get(name) for each in settings}) > 1]


def recipes(jobs: Sequence[Run], metric: str) -> list[Recipe]:
    """Return the finished jobs by recipe, the best one first.

    Args:
        jobs: Finished jobs that were not pruned.
        metric: The metric that compares them.
    """
    names = [name for name in varied(jobs) if name not in CHANCE]
    groups: dict[tuple[str, bool], list[Run]] = {}
    for job in jobs:
        has_fold = job.data.params["training.fold"] != "None"
        groups.setdefault((job.data.tags["recipe_key"], has_fold), []).append(job)
    found = []
    for members in groups.values():
        settings = settings_of(members[0])
        own = {name: shortened(settings[name]) for name in names if name in settings}
        results = [repeats.result_of(job, metric) for job in members]
        found.append(Recipe(own, members, results, spread(results)))
    return sorted(found, key=lambda recipe: rank(recipe, metric))


def rank(recipe: Recipe, metric: str) -> tuple[float, float]:
    """Return the sort key of a recipe, best first; the loss orders equal accuracies."""
    losses = [job.data.metrics["best_val_loss"] for job in recipe.jobs]
    return sign_of(metric) * recipe.spread.mean, float(np.mean(losses))


def write(done: Sequence[Run], jobs: Sequence[Run], metric: str, folder: Path) -> list[Path]:
    """Write the table, the plots and the predictions of a sweep; return the files.

    Args:
        done: The finished jobs, also those that were pruned, in the order of their start.
        jobs: Those that were not pruned; at least one.
        metric: The metric that compares them.
        folder: Where the files are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = varied(done)
    table = folder / "results.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "state", *names, metric, *COSTS])
        for job in done:
            settings, metrics = settings_of(job), job.data.metrics
            state = "pruned" if runs.PRUNED in job.data.tags else "finished"
            row = [settings.get(name, "") for name in names] + [metrics[metric]]
            row += [metrics.get(name, "") for name in COSTS]
            writer.writerow([job.info.run_name, state, *row])

    columns = {name: [settings_of(job).get(name, "") for job in jobs] for name in names}
    columns = {name: texts for name, texts in columns.items() if len(set(texts)) > 1}
    values = [job.data.metrics[metric] for job in jobs]
    files = [table]
    if len(done) > 2:
        files.append(folder / "history.png")
        plots.plot_history(
            [job.data.metrics[metric] for job in done],
            [runs.PRUNED in job.data.tags for job in done],
            metric,
            files[-1],
        )
    if columns:
        files.append(folder / "results.png")
        plots.plot_settings(columns, values, metric, files[-1])
    searched = {name: texts for name, texts in columns.items() if name not in CHANCE}
    if len(searched) > 1 and len(jobs) > 2:
        files.append(folder / "parallel_coordinates.png")
        plots.plot_parallel(searched, values, metric, files[-1])
        if len(jobs) >= plots.ENOUGH and len(set(values)) > 1:
            files.append(folder / "importance.png")
            plots.plot_importance(searched, values, metric, files[-1])
    return files


def verdict(ranked: Sequence[Recipe], metric: str) -> str:
    """Return whether the best recipe beats the others beyond chance, and what would tell."""
    if len(ranked) < 2:
        return ""
    several = [recipe for recipe in ranked if len(recipe.jobs) > 1]
    if len(several) < 2:
        return (
            "The jobs differ in their settings and were trained once each, so a difference between "
            "two of them may be chance. `search=folds` or `training.seed=0,1,2` shows how much the "
            "result varies."
        )
    best, comparisons = several[0], len(several) * (len(several) - 1) // 2
    lines = []
    for other in several[1:LISTED]:
        found = difference(best.results, other.results, comparisons)
        lines.append(f"`{best.name}` {compared(found, other.name, metric)}")
    if comparisons > 1:
        lines.append(f"The intervals are corrected for {comparisons} comparisons.")
    return "\n\n".join(lines)


def compared(found: Difference, other: str, metric: str) -> str:
    """Return the end of the sentence that compares the best recipe with another one."""
    if not isfinite(found.low):
        return f"and `{other}` have fewer than two folds or seeds in common."
    shown = (
        f"difference in {metric} {found.mean:+.4f}, interval {found.low:+.4f} to {found.high:+.4f}"
    )
    if found.is_certain:
        return f"beats `{other}`: {shown}."
    kind = "folds" if found.of_folds else "seeds"
    tell = (
        f"About {found.jobs_that_would_tell:.0f} {kind} each would show a difference of this size"
        if isfinite(found.jobs_that_would_tell)
        else f"More than 100 {kind} each would be needed to show a difference of this size"
    )
    return f"does not clearly beat `{other}`: {shown}. {tell}."


def table(ranked: Sequence[Recipe], pooled: Mapping[str, str], metric: str) -> str:
    """Return the recipes as a Markdown table.

    Args:
        ranked: The recipes, the best one first.
        pooled: From `write_out_of_fold`.
        metric: The metric that compares them.
    """
    names = list(dict.fromkeys(name for recipe in ranked for name in recipe.settings))[:COLUMNS]
    header = [*names, "jobs", metric, *(["out-of-fold balanced accuracy"] if pooled else [])]
    rows = [header, ["---"] * len(header)]
    for recipe in ranked[:LISTED]:
        row = [recipe.settings.get(name, "") for name in names]
        row += [str(len(recipe.jobs)), str(recipe.spread)]
        rows.append(row + ([pooled.get(recipe.name, "")] if pooled else []))
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    more = len(ranked) - LISTED
    return text + (f"\n\n{more} more are in `sweep/results.csv`." if more > 0 else "")


def write_out_of_fold(ranked: Sequence[Recipe], path: Path) -> dict[str, str]:
    """Write what models that have not seen an image predict for it, for all recipes with folds.

    The probabilities of an image are the mean over the seeds; the class with the highest is
    predicted.

    Returns:
        For each recipe with two folds or more, the balanced accuracy of these predictions in
        words, with its 95% bootstrap interval. Empty, and no file is written, without such a
        recipe.
    """
    found = {}
    clusters = {row.path: row.cluster for row in read_manifest()}
    tables = []
    for recipe in ranked:
        if recipe.spread.folds < 2:
            continue
        if lost := [job for job in recipe.jobs if not runs.has_predictions(original_of(job))]:
            print(
                f"{recipe.name}: {counted(len(lost), 'job')} of {len(recipe.jobs)} lost their "
                f"predictions, which somebody deleted in MLflow: no out-of-fold result."
            )
            continue
        classes, actual, probabilities = out_of_fold(recipe.jobs)
        labels = np.array([classes.index(label) for label in actual.values()])
        mean = np.array([np.mean(each, axis=0) for each in probabilities.values()])
        mean /= mean.sum(axis=1, keepdims=True)  # they were float32
        predicted = mean.argmax(axis=1)
        images = list(actual)
        predictions = Predictions(
            np.arange(len(images)), labels, mean, predicted,
            [clusters.get(image, image) for image in images],
        )  # fmt: skip
        low, high = intervals(predictions)["balanced_accuracy"]
        found[recipe.name] = (
            f"{predictions.metrics['balanced_accuracy']:.4f} ({low:.4f} to {high:.4f}, "
            f"{len(images)} images)"
        )
        tables.append((recipe.name, classes, images, labels, predicted, mean))
    if not tables:
        return {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = ["settings", "path", "actual", "predicted"]
        writer.writerow([*header, *(f"p_{name}" for name in tables[0][1])])
        for name, classes, images, labels, predicted, mean in tables:
            for row in zip(images, labels, predicted, mean, strict=True):
                image, label, choice, values = row
                writer.writerow([name, image, classes[label], classes[choice], *map(float, values)])
    return found


def log_spread(parent: str, best: Recipe, metric: str) -> None:
    """Log mean, standard deviation and interval of the best recipe to the sweep's run."""
    values: dict[str, Any] = {
        "mean": best.spread.mean,
        "deviation": best.spread.deviation,
        "low": best.spread.low,
        "high": best.spread.high,
    }
    client = mlflow.MlflowClient()
    for name, value in values.items():
        if isfinite(value):
            client.log_metric(parent, f"{metric}_{name}", value)
