import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from image_classifier.evaluation.metrics import (
    Measured,
    calibration_error,
    classification_metrics,
    intervals,
    resample,
)


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


def test_a_sure_mistake_costs_a_finite_loss():
    found = classification_metrics(
        np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 1])
    )
    assert np.isfinite(found["loss"])


def measured(labels: np.ndarray, positive: np.ndarray) -> Measured:
    probabilities = np.stack([1 - positive, positive], axis=1)
    return Measured(
        np.arange(len(labels)), labels, probabilities, (positive >= 0.5).astype(int), {}
    )


def test_the_figures_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    found = measured(labels, (labels * 0.4 + generator.random(200) * 0.6).round(2))
    ours = classification_metrics(found.labels, found.probabilities, found.predicted)
    true, answer, score = found.labels, found.predicted, found.probabilities[:, 1]
    for name, value in {
        "sensitivity": sklearn_metrics.recall_score(true, answer),
        "specificity": sklearn_metrics.recall_score(true, answer, pos_label=0),
        "precision": sklearn_metrics.precision_score(true, answer),
        "f1": sklearn_metrics.f1_score(true, answer),
        "brier": sklearn_metrics.brier_score_loss(true, score),
        "roc_auc": sklearn_metrics.roc_auc_score(true, score),
    }.items():
        assert ours[name] == pytest.approx(value), name


def test_one_class_alone_leaves_figures_undefined():
    found = classification_metrics(
        np.array([1, 1]), np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 0])
    )
    assert found["sensitivity"] == 0.5
    assert np.isnan(found["specificity"])
    assert np.isnan(found["roc_auc"])


def test_calibration_error_by_hand():
    # sure of 0.9: right in 1 of 2; sure of 0.6: right in 2 of 2
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6], [0.6, 0.4]])
    labels = np.array([1, 0, 1, 0])
    assert calibration_error(labels, probabilities) == pytest.approx((0.4 + 0.4) / 2)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(30):
        right = generator.random(80) < 0.9
        labels = generator.integers(0, 2, 80)
        positive = np.where(right == (labels == 1), 0.8, 0.2)
        low, high = intervals(measured(labels, positive), [str(i) for i in range(80)], 100)[
            "accuracy"
        ]
        covered += low <= 0.9 <= high
    assert covered >= 25


def test_images_of_a_group_come_together_and_widen_the_interval():
    groups = [str(i // 10) for i in range(100)]
    for rows in resample(groups, 5, seed=0):
        counts = np.bincount(rows, minlength=100).reshape(10, 10)
        assert (counts == counts[:, :1]).all()
    labels = np.ones(100, int)
    positive = np.repeat(np.tile([0.9, 0.1], 5), 10)  # a group is right or wrong as a whole
    found = measured(labels, positive)
    grouped = intervals(found, groups, 300)["accuracy"]
    single = intervals(found, [str(i) for i in range(100)], 300)["accuracy"]
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_a_model_without_errors_is_not_said_to_be_certain():
    labels = np.repeat([0, 1], 50)
    ends = intervals(measured(labels, labels * 0.9), [str(i) for i in range(100)], 50)
    assert ends["sensitivity"] == pytest.approx((0.9289, 1), abs=1e-4)  # 0.025 ** (1 / 50)
    assert ends["accuracy"][0] == pytest.approx(0.025 ** (1 / 100))
