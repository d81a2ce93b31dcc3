import numpy as np
import pytest

from image_classifier.metrics import classification_metrics


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
