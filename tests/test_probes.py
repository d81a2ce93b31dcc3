"""The probes find a planted shortcut, and none in clean data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation import probes

NUMBER = 240


@pytest.fixture
def plain(tmp_path: Path) -> PreparedDataset:
    """Noise in two classes without any difference."""
    generator = np.random.default_rng(0)
    file = tmp_path / "images.npy"
    np.save(file, generator.integers(0, 255, (NUMBER, 40, 40, 3), dtype=np.uint8))
    labels = generator.integers(0, 2, NUMBER)
    splits = ["train"] * 160 + ["test"] * 80
    rows = [
        ImageRow(f"{i}.png", str(label), split, str(i), "0" * 144, "", "", -1, "PNG", "RGB",
                 int(generator.integers(300, 400)), 300, int(generator.integers(9000, 9999)))
        for i, (label, split) in enumerate(zip(labels, splits, strict=True))
    ]  # fmt: skip
    return PreparedDataset(rows, file, labels, ["0", "1"], "", {})


def suspicious(dataset: PreparedDataset) -> list[str]:
    return [probe.name for probe in probes.run_probes(dataset, 0.95, 0.5) if probe.suspicious]


def test_without_a_shortcut_both_probes_are_near_chance(plain: PreparedDataset):
    found = probes.run_probes(plain, 0.95, 0.5)
    assert [probe.name for probe in found] == ["metadata", "border"]
    assert all(probe.balanced_accuracy < 0.65 for probe in found)
    assert suspicious(plain) == []


@pytest.mark.parametrize(
    "shortcut, leading",
    [
        ({"mode": "L"}, "mode "),
        ({"format": "JPEG"}, "format "),
        ({"width": 900, "bytes": 25000}, "width"),
        ({"bytes": 60000}, "bytes per pixel"),
    ],
)
def test_file_metadata_that_separate_the_classes_are_found(
    plain: PreparedDataset, shortcut: dict[str, object], leading: str
):
    rows = [replace(row, **shortcut) if row.label == "1" else row for row in plain.rows]
    found = probes.run_probes(replace(plain, rows=rows), 0.95, 0.5)
    assert [probe.suspicious for probe in found] == [True, False]
    assert str(found[0].leading).startswith(leading)


def test_a_mark_in_a_corner_is_found_and_a_mark_in_the_middle_is_not(
    plain: PreparedDataset, tmp_path: Path
):
    for place, names in ((np.s_[:4, -4:], ["border"]), (np.s_[16:24, 16:24], [])):
        images = plain.images.copy()
        for image, label in zip(images, plain.labels, strict=True):
            image[place] = 255 * label
        np.save(tmp_path / "marked.npy", images)
        assert suspicious(replace(plain, images_file=tmp_path / "marked.npy")) == names


def test_a_probe_is_judged_by_its_lift_over_chance(plain: PreparedDataset):
    marked = replace(plain, rows=[
        replace(row, mode="L") if row.label == "1" and i % 4 else row
        for i, row in enumerate(plain.rows)
    ])  # fmt: skip
    found = probes.run_probes(marked, 0.95, 0.5)[0]
    assert found.chance == 0.5
    assert 0.7 < found.balanced_accuracy < 0.95
    assert found.share == pytest.approx((found.balanced_accuracy - 0.5) / 0.45)
    assert probes.run_probes(marked, 0.5, 0.5)[0].share == 1  # the model has no lead at all


def test_a_probe_as_good_as_the_model_is_suspicious_however_large_the_share_must_be(
    plain: PreparedDataset,
):
    marked = replace(plain, rows=[
        replace(row, mode="L") if row.label == "1" and i % 4 else row
        for i, row in enumerate(plain.rows)
    ])  # fmt: skip
    found = probes.run_probes(marked, 0.95, 0.99)[0]
    assert not found.suspicious
    assert probes.run_probes(marked, found.balanced_accuracy, 0.99)[0].suspicious


def test_unequal_classes_do_not_make_a_probe_look_good(plain: PreparedDataset):
    labels = plain.labels.copy()
    labels[[i for i in range(NUMBER) if i % 12]] = 0  # nearly all of one class
    rows = [replace(r, label=str(label)) for r, label in zip(plain.rows, labels, strict=True)]
    for probe in probes.run_probes(replace(plain, rows=rows, labels=labels), 0.95, 0.5):
        assert probe.balanced_accuracy < 0.65
        assert not probe.suspicious
