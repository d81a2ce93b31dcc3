"""The gate, against a real registry."""

import json
from pathlib import Path

import mlflow
import pytest

from image_classifier import config, paths
from image_classifier.promote import promote

NAME = "synthetic-xray-classifier"


@pytest.fixture
def registry(empty_project: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    uri = f"sqlite:///{empty_project / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(uri)
    client.create_registered_model(NAME)
    return client


def evaluated(
    client: mlflow.MlflowClient, accuracy: float, rows: str = "same", **tags: float
) -> str:
    """Register a version with test figures, as evaluate leaves it."""
    figures = {"test_accuracy": accuracy, "test_sensitivity": accuracy} | tags
    version = client.create_model_version(
        NAME, "file:///nowhere", tags={k: str(v) for k, v in figures.items()} | {"test_rows": rows}
    )
    paths.EVALUATE.mkdir(parents=True, exist_ok=True)
    paths.EVALUATED.write_text(
        json.dumps({"name": NAME, "version": version.version, "test_rows": rows})
    )
    return str(version.version)


def decide(*overrides: str) -> dict:
    promote(config.from_hydra(config.compose(overrides)))
    return json.loads(paths.DECISION.read_text())


def champion(client: mlflow.MlflowClient) -> str:
    return str(client.get_model_version_by_alias(NAME, "champion").version)


def test_the_first_version_needs_the_floors_alone(registry: mlflow.MlflowClient):
    version = evaluated(registry, 0.9)
    assert decide()["champion"]
    assert champion(registry) == version


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"accuracy": 0.84}, "test_accuracy 0.8400 is below the floor of 0.85"),
        ({"accuracy": 0.9, "test_sensitivity": 0.7}, "test_sensitivity 0.7000 is below the floor"),
    ],
)
def test_a_version_below_a_floor_is_refused_with_the_reason(
    registry: mlflow.MlflowClient, tags: dict, reason: str
):
    evaluated(registry, **tags)
    decision = decide()
    assert not decision["champion"]
    assert reason in decision["reasons"][0]
    with pytest.raises(mlflow.MlflowException):
        champion(registry)


def test_a_better_version_takes_over_and_a_worse_or_equal_one_does_not(
    registry: mlflow.MlflowClient,
):
    first = evaluated(registry, 0.9)
    decide()
    for accuracy in (0.88, 0.9):
        worse = evaluated(registry, accuracy)
        decision = decide()
        assert "does not beat" in decision["reasons"][0]
        assert champion(registry) == first
        challenger = registry.get_model_version_by_alias(NAME, "challenger")
        assert str(challenger.version) == str(worse)
    better = evaluated(registry, 0.91)
    assert decide()["champion"]
    assert champion(registry) == better
    assert "challenger" not in registry.get_registered_model(NAME).aliases


def test_promoting_the_champion_again_changes_nothing(registry: mlflow.MlflowClient):
    version = evaluated(registry, 0.9)
    assert decide() == decide() | {"champion_before": None}
    assert champion(registry) == version


def test_versions_measured_on_other_test_images_do_not_compare(registry: mlflow.MlflowClient):
    first = evaluated(registry, 0.9, rows="these")
    decide()
    evaluated(registry, 0.99, rows="those")
    assert "other test images" in decide()["reasons"][0]
    assert champion(registry) == first


def test_the_decision_is_a_tag_of_the_version(registry: mlflow.MlflowClient):
    version = evaluated(registry, 0.5)
    decide()
    assert "below the floor" in registry.get_model_version(NAME, version).tags["promotion"]
