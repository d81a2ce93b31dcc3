"""The plots of a sweep: its results over time and over each setting, and which settings matter."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, LogFormatter, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.visualization import matplotlib as optuna_plots

from image_classifier.config.schema import sign_of
from image_classifier.project.plotting import save

# the plots of Optuna have been experimental since version 2
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

ENOUGH = 10  # jobs; with fewer, the importance of a setting means nothing
SPAN = 10  # numbers from x to 10 x or more may have a logarithmic axis

Columns = Mapping[str, Sequence[str]]


def plot_history(values: Sequence[float], pruned: Sequence[bool], metric: str, path: Path) -> None:
    """Plot the result of each job in the order of their start, and the best one so far.

    Args:
        values: The result of each job.
        pruned: Whether the job was stopped early; such a job is never the best.
        metric: The name of the result.
        path: The PNG file to write.
    """
    numbers, stopped = np.arange(1, len(values) + 1), np.asarray(pruned)
    sign = sign_of(metric)
    best = sign * np.fmin.accumulate(np.where(stopped, np.nan, sign * np.asarray(values)))
    figure, axis = plt.subplots(figsize=(8, 4))
    axis.plot(numbers, best, drawstyle="steps-post", color="tab:red", label="best so far")
    axis.scatter(numbers[~stopped], np.asarray(values)[~stopped], label="finished")
    if stopped.any():
        axis.scatter(
            numbers[stopped], np.asarray(values)[stopped], marker="x", color="grey", label="pruned"
        )
    axis.set_xlabel("job")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def plot_settings(columns: Columns, values: Sequence[float], metric: str, path: Path) -> None:
    """Plot the results over each setting that the sweep varied; the best job has a star.

    Args:
        columns: For each setting, its value in every job. Numbers have a numeric axis.
        values: The result of each job.
        metric: The name of the result.
        path: The PNG file to write.
    """
    best = int(np.argmin(sign_of(metric) * np.asarray(values)))
    wide = len(columns)
    figure, axes = plt.subplots(1, wide, figsize=(3.6 * wide, 3.4), squeeze=False, sharey=True)
    for axis, (name, texts) in zip(axes[0], columns.items(), strict=True):
        numbers = as_numbers(texts)
        points = list(texts) if numbers is None else numbers
        if numbers is not None and is_logarithmic(numbers):
            axis.set_xscale("log")
            plain_numbers(axis.xaxis, NullFormatter())
        axis.scatter(points, values, alpha=0.6)
        axis.scatter([points[best]], [values[best]], marker="*", s=160, label="best")
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(metric)
    axes[0, 0].legend()
    save(figure, path)


def plot_parallel(columns: Columns, values: Sequence[float], metric: str, path: Path) -> None:
    """Plot one line for each job through the values of its settings; arguments as above."""
    study = study_of(columns, values, metric)
    axes = optuna_plots.plot_parallel_coordinate(study, target_name=metric)
    axes.set_title("")
    for other in axes.figure.axes:
        if other.get_yscale() == "log":
            plain_numbers(other.yaxis, LogFormatter(minor_thresholds=(1.5, 0.5)))
    draw(axes, 3 + 2 * len(columns), path)


def plot_importance(columns: Columns, values: Sequence[float], metric: str, path: Path) -> None:
    """Plot which settings matter most (fANOVA); arguments as above.

    Source: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter
    Importance, 2014.
    """
    axes = optuna_plots.plot_param_importances(
        study_of(columns, values, metric), evaluator=FanovaImportanceEvaluator(seed=0)
    )
    axes.set_title("", loc="left")
    axes.set_title(f"Share of the variance of {metric} that a setting explains")
    axes.set(xlabel="", ylabel="")
    if legend := axes.get_legend():
        legend.remove()
    draw(axes, 9, path)


def plain_numbers(axis: Axis, between: Formatter) -> None:
    """Write the numbers of a logarithmic axis as 0.001, not as powers, which need math text.

    Args:
        axis: The axis.
        between: Writes the numbers between the powers of ten.
    """
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(between)


def draw(axes: Axes, width: float, path: Path) -> None:
    """Write a plot of Optuna."""
    figure = axes.get_figure(root=True)
    assert figure
    figure.set_size_inches(width, 4.5)
    figure.set_facecolor("white")
    save(figure, path)


def study_of(columns: Columns, values: Sequence[float], metric: str) -> optuna.Study:
    """Return the jobs of any sweep as Optuna's study, which its plots need."""
    distributions: dict[str, BaseDistribution] = {}
    settings: dict[str, Sequence[str] | Sequence[float]] = {}
    for name, texts in columns.items():
        numbers = as_numbers(texts)
        if numbers is None:
            settings[name] = list(texts)
            distributions[name] = CategoricalDistribution(sorted(set(texts)))
        else:
            settings[name] = numbers
            distributions[name] = FloatDistribution(
                min(numbers), max(numbers), log=is_logarithmic(numbers)
            )
    study = optuna.create_study(direction="minimize" if sign_of(metric) == 1 else "maximize")
    for index, value in enumerate(values):
        chosen = {name: settings[name][index] for name in columns}
        study.add_trial(
            optuna.trial.create_trial(params=chosen, distributions=distributions, value=value)
        )
    return study


def as_numbers(texts: Sequence[str]) -> list[float] | None:
    """Return texts as numbers, or None if one is not a number."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def is_logarithmic(numbers: Sequence[float]) -> bool:
    """Return whether numbers need a logarithmic axis: they span much, and most are small."""
    low, high = min(numbers), max(numbers)
    return low > 0 and high >= SPAN * low and float(np.median(numbers)) < low + (high - low) / 3
