import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from image_classifier.evaluation.bootstrap import (
    area_ends,
    certain_mean_recall,
    class_intervals,
    exact_interval,
    intervals,
    resample,
)
from image_classifier.evaluation.metrics import (
    calibration_error,
    chance,
    class_metrics,
    classification_metrics,
)
from image_classifier.evaluation.predictions import Predictions


def test_two_classes_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    positive = np.array([0.1, 0.2, 0.8, 0.9, 0.7, 0.6, 0.4, 0.95])
    probabilities = np.stack([1 - positive, positive], axis=1)
    found = classification_metrics(labels, probabilities, (positive >= 0.5).astype(int))
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["sensitivity"] == pytest.approx(4 / 5)
    assert found["specificity"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx(4 / 5)
    assert found["f1"] == pytest.approx(4 / 5)
    pairs = [(p > n) for p in positive[3:] for n in positive[:3]]
    assert found["roc_auc"] == pytest.approx(np.mean(pairs))
    assert found["brier"] == pytest.approx(np.mean((positive - labels) ** 2))
    true = np.where(labels == 1, positive, 1 - positive)
    assert found["loss"] == pytest.approx(-np.log(true).mean())


def test_more_classes_by_hand():
    labels = np.array([0, 0, 1, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    found = classification_metrics(labels, probabilities, probabilities.argmax(1))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["loss"] == pytest.approx(-np.log([0.8, 0.3, 0.8, 0.6]).mean())
    assert 0 <= found["roc_auc_macro"] <= 1


def test_a_certain_mistake_has_a_finite_loss():
    found = classification_metrics(
        np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 1])
    )
    assert np.isfinite(found["loss"])


def predictions(
    labels: np.ndarray, positive: np.ndarray, clusters: list[str] | None = None
) -> Predictions:
    probabilities = np.stack([1 - positive, positive], axis=1)
    return Predictions(
        np.arange(len(labels)),
        labels,
        probabilities,
        (positive >= 0.5).astype(int),
        clusters or [str(i) for i in range(len(labels))],
    )


def test_the_metrics_equal_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    found = predictions(labels, (labels * 0.4 + generator.random(200) * 0.6).round(2))
    ours = classification_metrics(found.labels, found.probabilities, found.predicted)
    true, predicted, score = found.labels, found.predicted, found.probabilities[:, 1]
    for name, value in {
        "sensitivity": sklearn_metrics.recall_score(true, predicted),
        "specificity": sklearn_metrics.recall_score(true, predicted, pos_label=0),
        "precision": sklearn_metrics.precision_score(true, predicted),
        "f1": sklearn_metrics.f1_score(true, predicted),
        "brier": sklearn_metrics.brier_score_loss(true, score),
        "roc_auc": sklearn_metrics.roc_auc_score(true, score),
        "loss": sklearn_metrics.log_loss(true, found.probabilities),
    }.items():
        assert ours[name] == pytest.approx(value), name


def test_the_metrics_of_many_classes_equal_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    probabilities = generator.dirichlet(np.ones(4), 200).round(2)
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
    found = classification_metrics(labels, probabilities, probabilities.argmax(axis=1))
    area = sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert found["roc_auc_macro"] == pytest.approx(area)
    assert found["loss"] == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))


def test_with_one_class_some_metrics_are_undefined():
    found = classification_metrics(
        np.array([1, 1]), np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 0])
    )
    assert found["sensitivity"] == 0.5
    assert np.isnan(found["specificity"])
    assert np.isnan(found["roc_auc"])


def test_calibration_error_by_hand():
    # confidence 0.9: 1 of 2 is right; confidence 0.6: 2 of 2 are right
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6], [0.6, 0.4]])
    labels = np.array([1, 0, 1, 0])
    assert calibration_error(labels, probabilities) == pytest.approx((0.4 + 0.4) / 2)


@pytest.mark.slow
def test_a_95_percent_interval_covers_the_truth_about_95_percent_of_the_time():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(30):
        right = generator.random(80) < 0.9
        labels = generator.integers(0, 2, 80)
        positive = np.where(right == (labels == 1), 0.8, 0.2)
        low, high = intervals(predictions(labels, positive), 100)["accuracy"]
        covered += low <= 0.9 <= high
    assert covered >= 25


def test_images_of_a_cluster_are_drawn_together_and_widen_the_interval():
    clusters = [str(i // 10) for i in range(100)]
    for rows in resample(clusters, 5, seed=0):
        counts = np.bincount(rows, minlength=100).reshape(10, 10)
        assert (counts == counts[:, :1]).all()
    labels = np.ones(100, int)
    positive = np.repeat(np.tile([0.9, 0.1], 5), 10)  # a cluster is right or wrong as a whole
    grouped = intervals(predictions(labels, positive, clusters), 300)["accuracy"]
    single = intervals(predictions(labels, positive), 300)["accuracy"]
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_a_model_without_errors_has_the_exact_binomial_interval():
    labels = np.repeat([0, 1], 50)
    ends = intervals(predictions(labels, labels * 0.9), 50)
    assert ends["sensitivity"] == pytest.approx((0.9289, 1), abs=1e-4)  # 0.025 ** (1 / 50)
    assert ends["accuracy"][0] == pytest.approx(0.025 ** (1 / 100))
    assert ends["balanced_accuracy"] == pytest.approx((0.025 ** (1 / 100), 1))
    assert ends["precision"] == pytest.approx((0.9289, 1), abs=1e-4)
    of_classes = class_intervals(predictions(labels, labels * 0.9))
    for name in ("precision", "recall"):
        assert of_classes[name] == pytest.approx(np.array([[0.9289, 1]] * 2), abs=1e-4)
    assert of_classes["f1"] == pytest.approx(np.array([[0.9631, 1]] * 2), abs=1e-4)


def test_a_model_with_an_error_is_never_more_certain_than_one_without():
    labels = np.repeat([0, 1], 50)
    # nearly equal probabilities: sums of them differ from 1 by rounding errors
    right = np.where(labels == 1, 0.9, 0.1) + np.linspace(0, 0.01, 100)
    wrong = right.copy()
    wrong[0] = 0.95
    none, one = (intervals(predictions(labels, positive), 100) for positive in (right, wrong))
    assert one["accuracy"] == pytest.approx(exact_interval(99, 100))
    for name in (
        "accuracy", "balanced_accuracy", "specificity", "precision", "f1", "f1_macro", "roc_auc",
    ):  # fmt: skip
        assert one[name][0] < none[name][0] < 1, name
        assert none[name][1] == 1, name
    assert np.isnan(none["pr_auc"]).all()
    # a model that answers one class only is no better than chance, but not to the last digit
    low, high = intervals(predictions(labels, np.full(100, 0.9)), 50)["balanced_accuracy"]
    assert 0.4 < low < 0.5 < high < 0.6
    # with clusters: images of one patient count as one if all are right or wrong together
    patients = [str(i // 5) for i in range(100)]
    wrong[:5] = 0.95
    low, high = intervals(predictions(labels, wrong, patients), 50)["accuracy"]
    assert (low, high) == pytest.approx(exact_interval(19, 20), abs=0.03)


def test_the_interval_of_the_area_is_that_of_its_source():
    # Newcombe 2006: the ends are areas from which 0.9 is 1.96 standard errors away
    for end in area_ends(0.9, 30, 50):
        first, second = end / (2 - end), 2 * end**2 / (1 + end)  # Hanley and McNeil, 1982
        variance = end * (1 - end) + 39 * (first - end**2) + 39 * (second - end**2)
        assert abs(0.9 - end) == pytest.approx(1.96 * np.sqrt(variance / 1500), abs=1e-4)
    assert area_ends(1.0, 30, 50)[1] == 1 > area_ends(1.0, 30, 50)[0] > 0.9
    assert area_ends(0.0, 30, 50)[0] == 0


def test_the_exact_interval_of_the_mean_recall():
    assert certain_mean_recall([7]) == pytest.approx(exact_interval(7, 7)[0])
    assert certain_mean_recall([2, 2, 2]) == pytest.approx(0.025 ** (1 / 6))
    # no other recalls with that probability have a smaller mean
    found = certain_mean_recall([40, 4])
    first = np.linspace(0.9, 1, 10001)
    second = (0.025 / first**40) ** (1 / 4)
    assert found == pytest.approx(((first + second) / 2)[second <= 1].min(), abs=1e-4)


def test_the_metrics_of_each_class_equal_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 3, (2, 90))
    found = class_metrics(labels, predicted, 3)
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predicted)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert found[name] == pytest.approx(values)
    many = class_metrics(np.array([0, 0]), np.array([0, 1]), 3)
    assert many["recall"][0] == 0.5
    assert np.isnan(many["recall"][1:]).all()
    assert np.isnan(many["precision"][2])


def test_chance_is_what_a_classifier_reaches_that_does_not_look():
    labels = np.repeat([0, 1], [90, 10])
    always = chance(labels, np.zeros(100, int), 2)
    assert always["accuracy"] == 0.9
    assert always["balanced_accuracy"] == 0.5
    assert (always["sensitivity"], always["specificity"]) == (0, 1)
    assert always["pr_auc"] == pytest.approx(0.1)
    assert chance(np.repeat([0, 1, 2], [50, 4, 4]), np.zeros(58, int), 3)["accuracy"] == 50 / 58


def test_a_sample_without_a_rare_class_gives_no_warning(recwarn: pytest.WarningsRecorder):
    labels = np.repeat([0, 1], [50, 1])
    found = intervals(predictions(labels, np.full(51, 0.1)), 200)
    assert found["balanced_accuracy"][0] < 0.5
    assert not recwarn.list
