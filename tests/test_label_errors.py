"""Wrong labels are found in predictions of unseen images; correct labels are left alone."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import ROOT, Project
from image_classifier.data.dataset import PreparedDataset
from image_classifier.evaluation import label_errors, model_card, report_texts
from image_classifier.evaluation.label_errors import Unseen, suspected_labels
from image_classifier.evaluation.predictions import Predictions
from image_classifier.tracking import out_of_fold, runs

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def phantoms() -> Arrays:
    """The embedded images as 16 x 16 grey values, and their labels."""
    files = sorted((ROOT / "data").glob("*/*/phantom-*"))
    values = [
        cv2.resize(cv2.imread(str(file), 0), (16, 16), interpolation=cv2.INTER_AREA).ravel()
        for file in files
    ]
    return np.array(values, float), np.array([file.parent.name == "NORMAL" for file in files], int)


@pytest.fixture(scope="module")
def digits() -> Arrays:
    """Every second of scikit-learn's handwritten digits, 8 x 8 pixels, and their labels."""
    values, labels = load_digits(return_X_y=True)
    return values[::2], labels[::2]


def planted(labels: np.ndarray) -> np.ndarray:
    """Return the labels with 5% of them replaced by a random other class."""
    generator, classes = np.random.default_rng(0), labels.max() + 1
    chosen = generator.choice(len(labels), round(0.05 * len(labels)), replace=False)
    result = labels.copy()
    result[chosen] = (labels[chosen] + generator.integers(1, classes, len(chosen))) % classes
    return result


def predict(values: np.ndarray, labels: np.ndarray, class_weight: str | None = None) -> np.ndarray:
    """Return the probabilities that models predict for images they were not trained on."""
    model = LogisticRegression(C=0.01, class_weight=class_weight)
    return cross_val_predict(
        make_pipeline(StandardScaler(), model), values, labels, cv=5, method="predict_proba"
    )


@pytest.mark.parametrize("name", ["phantoms", "digits"])
def test_planted_errors_lead_the_ranking_and_most_are_suspected(
    name: str, request: pytest.FixtureRequest
):
    values, correct = request.getfixturevalue(name)
    labels = planted(correct)
    wrong = labels != correct
    found = suspected_labels(labels, predict(values, labels))
    first = found.order[: round(0.08 * len(labels))]
    assert np.sum(wrong[first]) >= 0.9 * np.sum(wrong)
    assert np.sum(found.suspected & wrong) >= 0.75 * np.sum(wrong)
    assert np.sum(found.suspected & ~wrong) <= 0.2 * np.sum(found.suspected)
    assert np.mean(found.likely[wrong] == correct[wrong]) > 0.9
    assert 0.03 < found.share < 0.07
    assert not np.any(found.likely == labels)


@pytest.mark.parametrize("name", ["phantoms", "digits"])
def test_correct_labels_are_not_suspected(name: str, request: pytest.FixtureRequest):
    values, labels = request.getfixturevalue(name)
    probabilities = predict(values, labels)
    assert np.any(probabilities.argmax(axis=1) != labels)  # errors of the models, not of the labels
    found = suspected_labels(labels, probabilities)
    assert not found.suspected.any()
    assert found.share == 0
    assert sorted(found.order) == list(range(len(labels)))


def test_a_rare_class_is_not_suspected_whether_the_models_balance_the_classes_or_not(
    digits: Arrays,
):
    values, labels = digits
    rare = np.flatnonzero(labels == 8)
    kept = np.setdiff1d(np.arange(len(labels)), rare[8:])
    for class_weight in (None, "balanced"):
        probabilities = predict(values[kept], labels[kept], class_weight)
        assert not suspected_labels(labels[kept], probabilities).suspected.any()


def test_probabilities_that_are_too_certain_change_nothing(phantoms: Arrays):
    values, correct = phantoms
    labels = planted(correct)
    probabilities = predict(values, labels)
    sharper = probabilities**2 / np.sum(probabilities**2, axis=1, keepdims=True)
    found, other = (suspected_labels(labels, given) for given in (probabilities, sharper))
    assert np.array_equal(found.suspected, other.suspected)
    assert found.share == pytest.approx(other.share, abs=0.001)


def test_copies_of_an_image_are_no_further_evidence(phantoms: Arrays):
    values, labels = phantoms
    probabilities = predict(values, labels)
    labels = labels.copy()
    wrong = probabilities[np.arange(len(labels)), labels].argmax()
    labels[wrong] = 1 - labels[wrong]
    once = suspected_labels(labels, probabilities)
    assert np.flatnonzero(once.suspected).tolist() == [wrong]
    rows = np.concatenate([np.arange(len(labels)), np.full(10, wrong)])
    clusters = [str(row) for row in rows]
    found = suspected_labels(labels[rows], probabilities[rows], clusters)
    assert found.share == pytest.approx(once.share, rel=0.01)
    assert np.array_equal(found.suspected, rows == wrong)
    assert suspected_labels(labels[rows], probabilities[rows]).share > 5 * once.share


def test_the_file_has_the_suspected_and_the_first_tenth(dataset: PreparedDataset, tmp_path: Path):
    rows = [replace(row, path=f"{i}.png", sha256=str(i)) for i, row in enumerate(dataset.rows * 10)]
    dataset = replace(dataset, rows=rows, labels=np.tile(dataset.labels, 10))
    own = np.where(np.arange(300) < 250, 0.9999, 0.8)
    own[250:260] = 0.2  # as often as the models say
    own[[4, 34]] = 0.0001  # wrong labels
    probabilities = np.where(np.eye(2)[dataset.labels] == 1, own[:, None], 1 - own[:, None])
    path = tmp_path / "suspected.csv"
    everything = Unseen(np.arange(300), probabilities, np.full(300, 2), True)
    entry, findings = label_errors.write(dataset, everything, path)
    with path.open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 30  # of 300 images
    assert [row["path"] for row in listed[:2]] == ["4.png", "34.png"]
    assert [row["suspected"] for row in listed] == ["yes"] * 2 + ["no"] * 28
    assert listed[0]["likely_label"] == dataset.classes[1 - dataset.labels[4]]
    assert listed[0]["predictions"] == "2"
    assert float(listed[0]["probability_of_label"]) < 0.01
    assert float(listed[0]["probability_of_likely_label"]) > 0.99
    assert [finding.path for finding in findings] == ["4.png", "34.png"]
    assert findings[0].kind == "suspected label"
    assert entry["by_split"] == {
        "train": {"images": 210, "suspected": 2},
        "validation": {"images": 50, "suspected": 0},
        "test": {"images": 40, "suspected": 0},
    }
    assert [each["path"] for each in entry["first"]] == [row["path"] for row in listed[:20]]


def training(experiment: str, predicted: dict[str, float], **changes: str) -> str:
    """Store a run as a job of a sweep does, with its predictions; return its id."""
    client = mlflow.MlflowClient()
    settings = {"fold": "None", "seed": "0", "recipe_key": "r"} | changes
    tags = {name: text for name, text in settings.items() if name not in ("fold", "seed")}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    client.log_param(run_id, "training.fold", settings["fold"])
    client.log_param(run_id, "training.seed", settings["seed"])
    client.log_metric(run_id, out_of_fold.METRIC, 1)
    if predicted:
        lines = [f"{path},a,a,{1 - value},{value}" for path, value in predicted.items()]
        text = "\n".join(["path,actual,predicted,p_b,p_a", *lines])  # in another order
        client.log_text(run_id, text, "training/validation_predictions.csv")
    client.set_terminated(run_id)
    return run_id


def test_predictions_are_collected_from_the_folds_of_the_recipe(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = mlflow.MlflowClient().create_experiment("e", (tmp_path / "files").as_uri())
    splits = [
        Predictions(
            rows, dataset.labels[rows], np.full((len(rows), 2), 0.5), dataset.labels[rows]
        )
        for rows in (dataset.indices("validation"), dataset.indices("test"))
    ]  # fmt: skip
    model = training(experiment, {})
    alone = out_of_fold.unseen_predictions(model, dataset, *splits)
    assert not alone.by_folds
    assert alone.rows.tolist() == list(range(21, 30))  # those of validation and test

    first = training(experiment, {"0.png": 0.8, "21.png": 0.9}, fold="0")
    training(experiment, {"0.png": 0.6, "21.png": 0.7}, fold="0", seed="1")
    training(experiment, {"1.png": 0.2}, fold="1")
    training(experiment, {"2.png": 0.2}, fold="2", recipe_key="another")
    training(experiment, {"3.png": 0.2}, fold="3", **{runs.PRUNED: "1"})
    training(experiment, {}, fold="0", seed="2", **{runs.REUSED: first})
    found = out_of_fold.unseen_predictions(model, dataset, *splits)
    assert found.by_folds
    assert found.rows.tolist() == [0, 1, *range(21, 30)]
    assert found.numbers.tolist() == [3, 1, 3, *[1] * 8]
    values = dict(zip(found.rows.tolist(), found.probabilities[:, 0], strict=True))  # of class a
    assert values[0] == pytest.approx((0.8 + 0.6 + 0.8) / 3)
    assert values[1] == pytest.approx(0.2)
    assert values[21] == pytest.approx(
        (0.9 + 0.7 + 0.9) / 3
    )  # not 0.5: the model chose its epoch on it
    assert values[22] == 0.5


def test_evaluate_ranks_the_labels_it_can_check_and_the_card_says_how_to_check_all(
    project: Project,
):
    report = project.read("build/evaluate/report.json")
    found = report["label_errors"]
    counts = {split: sum(classes.values()) for split, classes in report["counts"].items()}
    checked = counts["validation"] + counts["test"]
    assert (found["images"], found["of"]) == (checked, sum(counts.values()))
    assert not found["by_folds"]
    path = project.folder / "build/evaluate/suspected_labels.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} <= {"validation", "test"}
    assert len(rows) >= checked / 10
    assert [row["path"] for row in rows[:20]] == [entry["path"] for entry in found["first"]]
    assert f"{checked} of {sum(counts.values())} labels were checked" in model_card.write(report)
    text = report_texts.label_errors(report)
    assert "`image-classifier train --multirun search=folds` checks all" in text


def test_the_card_names_the_first_suspected_labels_and_says_what_to_do(project: Project):
    report = project.read("build/evaluate/report.json")
    first = [
        {
            "path": f"{i}.png", "label": "NORMAL", "likely_label": "COVID19", "split": "test",
            "probability_of_label": 0.001, "probability_of_likely_label": 0.999,
            "predictions": 2, "suspected": "yes" if i < 7 else "no",
        }
        for i in range(9)
    ]  # fmt: skip
    report["label_errors"] = {
        "images": 280, "of": 280, "by_folds": True, "suspected": 7, "estimated_share": 0.03,
        "by_split": {"train": {"images": 240, "suspected": 0},
                     "test": {"images": 40, "suspected": 7}},
        "first": first,
    }  # fmt: skip
    text, card = report_texts.label_errors(report), model_card.write(report)
    assert "**7 labels are suspected to be wrong** (7 in test)" in text
    assert "corrections.csv" in text
    assert (
        "**7 are suspected to be wrong**, such as `0.png` (NORMAL, likely COVID19), `1.png`" in card
    )
    assert "`4.png`" in card
    assert "`5.png`" not in card
