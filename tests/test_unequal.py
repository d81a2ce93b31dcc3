"""Three unequal classes of pure noise through the whole pipeline: never a champion."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import new_project


@pytest.mark.slow
def test_a_model_that_answers_the_largest_class_only_is_no_champion(tmp_path: Path):
    generator = np.random.default_rng(1)
    for split, numbers in (("train", (100, 8, 8)), ("test", (50, 4, 4))):
        for label, number in zip(("common", "rare1", "rare2"), numbers, strict=True):
            folder = tmp_path / "set" / split / label
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    project = new_project(
        tmp_path / "project",
        "dataset=folder", "dataset.name=noise", f"dataset.path={tmp_path / 'set'}",
        "dataset.positive_class=null", "image.height=32", "image.width=32", "training.seed=1",
        "training.epochs=4", "promotion.minimum_accuracy=0",
        "training.monitor=val_balanced_accuracy",
    )  # fmt: skip
    output = project.stages()
    assert "The classes are unequal: 150 common, 12 rare2. Accuracy says little then" in output
    assert "common for every test image" in output
    reasons = " ".join(project.read("build/promote/decision.json")["reasons"])
    assert "not above chance, 0.3333 (promotion.metric=balanced_accuracy)" in reasons
    # none of 4 images: the exact interval
    assert "minimum_recall=0.25: rare1 0.0000 (95% interval 0.0000 to 0.6024: " in reasons
    assert "rare2 0.0000 (95% interval 0.0000 to 0.6024: " in reasons
    card = (project.folder / "build/evaluate/model_card.md").read_text()
    assert "The model answers common for every test image" in card
    assert "| accuracy | 0.8621 |" in card
    assert card.count("0.8621") >= 2  # chance is beside it
    assert "No probe and no test reaches the limit" not in card
    history = csv.DictReader((project.folder / "build/train/history.csv").read_text().splitlines())
    assert all(0 < float(epoch["val_balanced_accuracy"]) < 1 for epoch in history)
    assert "UserWarning" not in output
