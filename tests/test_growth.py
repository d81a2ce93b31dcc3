"""A dataset that grows by 20% in each of five months, through the whole pipeline."""

import re
from pathlib import Path

import pytest
from PIL import Image

from conftest import Project, new_project
from phantoms.drawing import phantom

SIDE = 64
GOOD = ["training.epochs=8"]
WEAK = ["training.epochs=4", "optimizer.learning_rate=0.00005"]
UNTRAINED = ["training.epochs=1", "optimizer.learning_rate=1e-7"]
# how each month's challenger is trained, and whether it must become champion
MONTHS = [
    (WEAK, True),
    (GOOD, True),
    (UNTRAINED, False),
    (GOOD, False),  # as good as the champion, so not clearly better
    (WEAK, False),
    (GOOD, False),
]


def add(folder: Path, month: int, number: int) -> None:
    """Draw so many phantoms of each class."""
    for label in ("healthy", "sick"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            pixels = phantom((month, index, label == "sick"), label == "sick", (SIDE, SIDE))
            Image.fromarray(pixels).save(folder / label / f"{month}-{index:03}.png")


@pytest.mark.slow
def test_every_months_challenger_is_compared_with_the_champion(tmp_path: Path):
    data = tmp_path / "data"
    number = 150
    add(data, 0, number)
    overrides = [
        "dataset=folder", "dataset.name=growing", f"dataset.path={data}",
        "dataset.positive_class=sick", f"image.height={SIDE}", f"image.width={SIDE}",
        "image.channels=1", "promotion.minimum_accuracy=0.5", "promotion.minimum_sensitivity=0",
        "promotion.minimum_recall=0",
    ]  # fmt: skip
    project: Project = new_project(tmp_path / "project", *overrides, *WEAK)
    champion, splits = None, {}
    for month, (training, promoted) in enumerate(MONTHS):
        if month:
            add(data, month, number // 5)
            number += number // 5
            project.write_params(*overrides, *training)
        output = project.run("dvc", "repro")
        decision = project.read("build/promote/decision.json")
        rows = (project.folder / "build/split/manifest.csv").read_text().splitlines()[1:]
        now = {row.split(",")[0]: row.split(",")[2] for row in rows}
        assert sum(now[path] != split for path, split in splits.items()) <= 3
        splits = now
        tests = sum(split == "test" for split in now.values())
        print(month, training, len(now), tests, decision["comparison"], decision["reasons"])
        if month:
            comparison = decision["comparison"]
            assert comparison["champion_version"] == champion
            assert comparison["images"] + comparison["left_out"] == tests
            assert comparison["left_out"] <= 3
            assert re.search(r"Compared with the champion, version \d+, on \d+ test", output)
        assert decision["champion"] == promoted, decision["reasons"]
        if promoted:
            champion = decision["version"]
