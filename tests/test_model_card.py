"""What the card says of a dataset that is not as clean as the embedded one."""

import numpy as np
import pytest

from conftest import Project
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation import model_card
from image_classifier.evaluation.metrics import Measured
from image_classifier.evaluation.report import slices


@pytest.fixture
def report(project: Project) -> dict:
    return project.read("build/evaluate/report.json")


def test_images_that_leaked_are_counted_and_the_first_named(report: dict):
    report["copies"]["leaking_dropped"] = {f"train/{i}.jpg": "a copy" for i in range(7)}
    report["left_out"] = 9
    card = model_card.write(report)
    assert "**7 images were in two splits of the dataset and are left out**" in card
    assert "`train/4.jpg` and 2 more" in card
    assert "Files left out in all: 9, see `data/left_out.csv` of the run" in card


def test_each_source_has_its_figures(report: dict):
    report["slices"] = {"north": {"images": 40, "accuracy": 0.9}}
    assert "| north | 40 | 0.9000 |" in model_card.write(report)


def test_a_suspected_shortcut_is_told_with_what_decides_it(report: dict):
    report["probes"][0] |= {"suspicious": True, "accuracy": 1.0, "leading": "bytes per pixel"}
    report["shortcuts"] = ["metadata"]
    told = "the metadata probe reaches 100.0% (by bytes per pixel most of all)"
    assert told in model_card.write(report)
    assert told in model_card.summary(report)


def test_the_figures_of_a_source_are_those_of_its_images(dataset: PreparedDataset):
    rows = [
        ImageRow(f"{i}.png", "a", "test", str(i), "0" * 144, "", source, "PNG", "RGB", 8, 8, 9)
        for i, source in enumerate(["north", "north", "south", ""])
    ]
    labels, predicted = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 0])
    probabilities = np.eye(2)[predicted]
    test = Measured(np.arange(4), labels, probabilities, predicted, {})
    found = slices(PreparedDataset(rows, dataset.images_file, labels, ["a", "b"], "", {}), test)
    assert {name: (entry["images"], entry["accuracy"]) for name, entry in found.items()} == {
        "north": (2, 0.5), "south": (1, 1.0), "unknown": (1, 1.0),
    }  # fmt: skip
    assert "sensitivity" not in found["unknown"]  # it has no positive image
