"""How much results vary over folds and seeds, and what a sweep says about it."""

import json

import numpy as np
import pytest
from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag
from scipy.stats import ttest_1samp, ttest_rel

from image_classifier.evaluation.spread import Result, difference, spread
from image_classifier.sweeps import results


def seeds(*values: float) -> list[Result]:
    return [Result(None, seed, value) for seed, value in enumerate(values)]


def folds(*values: float, repeats: int = 1) -> list[Result]:
    return [Result(fold, s, value) for fold, value in enumerate(values) for s in range(repeats)]


def test_over_seeds_the_interval_is_that_of_the_t_test():
    found = spread(seeds(0.8, 0.83, 0.9, 0.79))
    low, high = ttest_1samp([0.8, 0.83, 0.9, 0.79], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.seeds, found.folds) == (pytest.approx(0.83), 4, 0)
    assert found.deviation == pytest.approx(np.std([0.8, 0.83, 0.9, 0.79], ddof=1))


def test_over_folds_the_interval_is_wider_because_folds_share_training_images():
    values = (0.8, 0.83, 0.9, 0.79, 0.85)
    plain, found = spread(seeds(*values)), spread(folds(*values))
    ratio = (found.high - found.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt((1 / 5 + 1 / 4) / (1 / 5)))


def test_more_seeds_of_the_same_folds_are_no_further_evidence():
    once, thrice = spread(folds(0.8, 0.9, 0.85)), spread(folds(0.8, 0.9, 0.85, repeats=3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (once.seeds, thrice.seeds) == (1, 3)


def test_one_training_has_no_interval():
    assert np.isnan(spread(seeds(0.8)).low)
    assert str(spread(seeds(0.8))) == "0.8000"


def test_a_difference_is_paired_and_corrected_for_the_number_of_comparisons():
    ours, theirs = (0.81, 0.84, 0.9, 0.8), (0.8, 0.82, 0.89, 0.79)
    found = difference(seeds(*ours), seeds(*theirs))
    interval = ttest_rel(ours, theirs).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.is_certain
    assert not difference(seeds(*ours), seeds(*theirs), comparisons=100).is_certain
    assert not difference(folds(*ours), seeds(*theirs)).is_certain


def test_without_a_real_difference_one_is_claimed_in_at_most_5_percent_of_cases():
    generator = np.random.default_rng(0)
    claims = 0
    for _ in range(400):
        models = [seeds(*generator.normal(0.8, 0.02, 4)) for _ in range(3)]
        models.sort(key=lambda model: -spread(model).mean)  # the best is compared with the others
        claims += any(difference(models[0], other, 3).is_certain for other in models[1:])
    assert claims <= 28


def test_the_number_of_jobs_that_would_tell_does_tell():
    generator = np.random.default_rng(0)
    pilot = difference(seeds(0.82, 0.80, 0.84), seeds(0.80, 0.80, 0.80))
    assert not pilot.is_certain
    number = int(pilot.jobs_that_would_tell)
    deviation = np.std([0.02, 0, 0.04], ddof=1)
    shown = sum(
        difference(
            seeds(*(0.8 + generator.normal(0.02, deviation, number))), seeds(*[0.8] * number)
        ).is_certain
        for _ in range(300)
    )
    assert 0.7 < shown / 300 < 0.97
    assert difference(seeds(0.8, 0.9), seeds(0.9, 0.8)).jobs_that_would_tell == float("inf")


def job(number: int, recipe: str, words: list[str], accuracy: float, loss: float) -> Run:
    """A finished job of a sweep."""
    seed = next((word[-1] for word in words if "seed" in word), "0")
    info = RunInfo(str(number), "1", "user", "FINISHED", number, number, "active", run_name="job")
    return Run(info, RunData(
        [Metric(name, value, 0, 0) for name, value in
         {"best_val_accuracy": accuracy, "best_val_loss": loss}.items()],
        [Param("training.seed", seed), Param("training.fold", "None")],
        [RunTag("overrides", json.dumps(words)), RunTag("recipe_key", recipe)],
    ))  # fmt: skip


def test_of_recipes_with_equal_accuracy_the_one_with_the_lower_loss_is_the_best():
    jobs = [
        job(1, "a", ["model.dropout=0.1"], 0.975, 0.167),
        job(2, "b", ["model.dropout=0.2"], 0.975, 0.115),
        job(3, "c", ["model.dropout=0.3"], 0.9, 0.1),
    ]
    by_accuracy = results.recipes(jobs, "best_val_accuracy")
    assert [recipe.name[-1] for recipe in by_accuracy] == ["2", "1", "3"]
    assert results.recipes(jobs, "best_val_loss")[0].name == "model.dropout=0.3"
    assert "trained once each" in results.verdict(by_accuracy, "best_val_accuracy")


def test_a_beats_b_only_beyond_the_seeds():
    clear = [
        job(n, rate, [f"optimizer.learning_rate={rate}", f"training.seed={n}"], value, 0.1)
        for rate, values in (("0.1", (0.9, 0.91, 0.92)), ("0.2", (0.5, 0.52, 0.51)))
        for n, value in enumerate(values)
    ]
    ranked = results.recipes(clear, "best_val_accuracy")
    assert [len(recipe.jobs) for recipe in ranked] == [3, 3]
    text = results.verdict(ranked, "best_val_accuracy")
    assert "`optimizer.learning_rate=0.1` beats `optimizer.learning_rate=0.2`" in text
    close = [
        job(n, rate, [f"optimizer.learning_rate={rate}", f"training.seed={n}"], value, 0.1)
        for rate, values in (("0.1", (0.9, 0.7, 0.95)), ("0.2", (0.85, 0.8, 0.8)))
        for n, value in enumerate(values)
    ]
    text = results.verdict(results.recipes(close, "best_val_accuracy"), "best_val_accuracy")
    assert "does not clearly beat" in text
    assert "seeds each would" in text
