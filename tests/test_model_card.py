"""The model card of a dataset that is less clean than the embedded one."""

import re
from dataclasses import asdict

import numpy as np
import pytest

from conftest import Project
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation import model_card
from image_classifier.evaluation.caveats import find_caveats
from image_classifier.evaluation.predictions import Predictions
from image_classifier.evaluation.report import metrics_by_source


def card_of(report: dict) -> str:
    """The card of a report that was changed after its caveats were found."""
    report["caveats"] = [asdict(caveat) for caveat in find_caveats(report)]
    return model_card.write(report)


@pytest.fixture
def report(project: Project) -> dict:
    return project.read("build/evaluate/report.json")


def test_leaking_images_are_counted_and_the_first_are_named(report: dict):
    report["duplicates"]["leaking_dropped"] = {f"train/{i}.jpg": "a duplicate" for i in range(7)}
    report["skipped"] = 9
    card = model_card.write(report)
    assert "**7 images were in two splits of the dataset, and are excluded from validation" in card
    assert "`train/4.jpg` and 2 more" in card
    assert "Skipped files: 9, see `data/skipped.csv` of the run" in card


def test_a_suspected_shortcut_is_reported_with_its_leading_feature(report: dict):
    report["probes"][0] |= {
        "suspicious": True,
        "balanced_accuracy": 1.0,
        "leading": "bytes per pixel",
    }
    report["shortcuts"] = ["metadata"]
    warning = (
        "A classifier that sees only the file metadata reaches a balanced accuracy of 100.0% "
        "(its most important feature: bytes per pixel); the model reaches"
    )
    assert f"- **{warning}" in card_of(report)
    assert f"WARNING: possible shortcut: {warning}" in model_card.summary(report)


def test_the_looks_at_the_test_set_are_said_and_that_fresh_images_are_due(report: dict):
    sentence = "was looked at once: 1 version evaluated, 0 decisions of the gate."
    assert sentence in model_card.write(report)
    assert "Fresh test images are due" not in model_card.write(report)
    report["ledger"]["looks"] = 30
    assert "**Fresh test images are due: after 30 looks" in model_card.write(report)
    assert "- **By this MLflow store, this test set (digest" in card_of(report)


def test_the_tests_on_the_model_are_in_the_card_and_a_suspicious_one_is_a_warning(report: dict):
    names = [test["name"] for test in report["shortcut_tests"]]
    assert names == ["centre_hidden", "border_hidden", "other_border", "other_file"]
    assert "No probe and no test reaches the limit" in card_of(report)
    swap = report["shortcut_tests"][2]
    swap["suspicious"] = swap["balanced_accuracy"]["suspicious"] = True
    report["shortcuts"] = ["other_border"]
    number, images = f"{swap['balanced_accuracy']['same_class']:.3f}", swap["images"]
    for text in (card_of(report), model_card.summary(report)):
        assert "With the border of an image of another class, " in text
        assert f" of {images} predictions become that class: balanced accuracy " in text
        assert f"with that of the same class {number}." in text


def test_a_model_that_answers_one_class_only_is_said(report: dict):
    report["confusion"] = [[40, 0], [40, 0]]
    report["test"]["balanced_accuracy"]["value"] = 0.5
    for probe in report["probes"]:
        probe |= {"balanced_accuracy": 0.5, "suspicious": False}
    card, summary = card_of(report), model_card.summary(report)
    for text in (card, summary):
        assert "The model answers NORMAL for every test image" in text
    assert "is not higher than that of the probe metadata and border" in card
    assert "No probe and no test reaches the limit" not in card


def test_a_class_that_is_never_answered_is_said(report: dict):
    report["classes"] = ["a", "b", "c"]
    report["confusion"] = [[4, 2, 0], [1, 3, 0], [2, 2, 0]]
    assert model_card.one_sided(report) == ["The model never answers c on the test images."]


def test_chance_is_beside_the_headline_metrics(report: dict):
    card = model_card.write(report)
    assert re.search(r"\| balanced_accuracy \| 0\.\d{4} \| .* \| 0\.5000 \|", card)
    assert re.search(r"balanced_accuracy +0\.\d{4} .* 0\.5000", model_card.summary(report))


def test_with_more_classes_the_card_has_the_recall_of_each_but_is_never_too_long(report: dict):
    entry = report["classes_test"]["COVID19"]
    report["classes"] = [f"class {number}" for number in range(100)]
    report["classes_test"] = dict.fromkeys(report["classes"], entry)
    report["confusion"] = np.eye(100, dtype=int).tolist()
    for split in report["counts"]:
        report["counts"][split] = dict.fromkeys(report["classes"], 7)
    card = card_of(report)
    low, high = entry["recall"]["low"], entry["recall"]["high"]
    value = entry["recall"]["value"]
    assert f"| recall of class 0 (40) | {value:.4f} | {low:.4f} to {high:.4f} |" in card
    assert "class 99 (40)" not in card


def test_the_metrics_of_a_source_are_those_of_its_images(dataset: PreparedDataset):
    rows = [
        ImageRow(f"{i}.png", "a", "test", str(i), "0" * 144, "", source, -1, "PNG", "RGB", 8, 8, 9)
        for i, source in enumerate(["north", "north", "south", ""])
    ]
    labels, predicted = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 0])
    probabilities = np.eye(2)[predicted]
    test = Predictions(np.arange(4), labels, probabilities, predicted)
    found = metrics_by_source(
        PreparedDataset(rows, dataset.images_file, labels, ["a", "b"], "", {}), test
    )
    assert {name: (entry["images"], entry["accuracy"]) for name, entry in found.items()} == {
        "north": (2, 0.5), "south": (1, 1.0), "unknown": (1, 1.0),
    }  # fmt: skip
    assert "sensitivity" not in found["unknown"]  # it has no positive image
