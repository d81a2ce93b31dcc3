"""Weak spots are named where a model is worse, and nowhere else."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from conftest import taught
from image_classifier.classifier import Classifier
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation import report_texts
from image_classifier.evaluation.predictions import Predictions, predict_split
from image_classifier.evaluation.weak_spots import (
    Kind,
    Side,
    Slice,
    WeakSpots,
    compare,
    compare_all,
    difference_interval,
    find_weak_spots,
    kinds_by_manifest,
    thirds,
)
from phantoms.drawing import phantom

SIDE, PLACE = 48, [(0.3, 0.5)]  # small phantoms, with an opacity always at one place


def named(found: WeakSpots) -> list[str]:
    json.dumps(asdict(found), allow_nan=False)
    names = [entry.name for entry in found.slices if entry.weak]
    assert len(found.sentences) == len(names)
    return names


def alone(number: int) -> list[str]:
    return [str(i) for i in range(number)]


# --- the statistics


@pytest.mark.parametrize(
    ("images", "classes", "errors", "grouped"),
    [(80, 2, 0.3, False), (200, 2, 0.1, False), (200, 10, 0.2, True), (500, 3, 0.05, True)],
)
def test_models_without_a_weak_spot_have_none_in_19_of_20_runs(
    images: int, classes: int, errors: float, grouped: bool
):
    """Errors depend on the class and the group only; kinds depend on the class and the group."""
    false = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        sizes = generator.choice([1, 2, 4, 8] if grouped else [1], images)
        group = np.repeat(np.arange(images), sizes)[:images]
        labels = generator.integers(0, classes, images)[group]
        hard = generator.choice([0.5, 1, 1.5], classes)[labels]
        ease = generator.uniform(0, 2, images)[group] if grouped else 1  # the same for a group
        right = generator.random(images) > errors * hard * ease
        source = (generator.integers(0, 4, images)[group] + (labels == 0)) % 4
        kinds = [Kind(f"source {i}", source == i) for i in range(4)]
        for name in ("brightness", "size"):
            kinds += thirds(name, generator.normal(size=images) + labels)
        cluster = generator.integers(0, 8, images)
        kinds += [Kind(f"cluster {i}", cluster == i) for i in range(8)]
        false += bool(named(compare_all(kinds, right, labels, group.astype(str).tolist())))
    assert false <= 2


def test_a_bad_source_is_found_nearly_always():
    found = others = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        labels, images = generator.integers(0, 3, 200), np.arange(200)
        right = generator.random(200) < np.where(images < 40, 0.6, 0.95)
        cluster = generator.integers(0, 8, 200)
        kinds = [Kind(f"source {i}", images // 40 == i) for i in range(5)]
        kinds += [Kind(f"cluster {i}", cluster == i) for i in range(8)]
        names = named(compare_all(kinds, right, labels, alone(200)))
        found += "source 0" in names
        others += bool(set(names) - {"source 0"})
    assert found >= 38
    assert others <= 2


def test_a_kind_full_of_a_difficult_class_is_not_weak():
    labels = np.repeat([0, 1], 100)
    right = np.where(labels == 0, True, np.arange(200) % 2 == 0)  # class 1: half of them
    inside = np.zeros(200, bool)
    inside[:10] = inside[100:160] = True
    assert named(compare_all([Kind("difficult", inside)], right, labels, alone(200))) == []
    # the same images of one class are far worse than the rest
    assert named(compare_all([Kind("difficult", inside)], right, labels * 0, alone(200)))


def test_images_of_one_group_count_once():
    """Two sources: in one of them, 3 of 8 patients are wrong in all of their 20 images."""
    source, labels = np.arange(320) < 160, np.zeros(320, np.int64)
    right = np.arange(320) >= 60
    patients = (np.arange(320) // 20).astype(str).tolist()
    kinds = [Kind("source", source)]
    assert named(compare_all(kinds, right, labels, alone(320))) == ["source"]
    assert named(compare_all(kinds, right, labels, patients)) == []
    inside, outside = compare(right, labels, patients, source)
    assert (inside.number, outside.number) == (8, 8)
    assert inside.accuracy == pytest.approx(5 / 8)


def test_a_group_with_images_of_several_classes_is_still_one():
    labels = np.arange(320) % 4
    patients = (np.arange(320) // 20).astype(str).tolist()
    inside, outside = compare(np.ones(320, bool), labels, patients, np.arange(320) < 160)
    assert (inside.number, outside.number) == pytest.approx((8, 8))


def test_all_right_or_all_wrong_is_not_certain_by_itself():
    labels = np.zeros(200, np.int64)
    for wrong, weak in ((0, False), (1, False), (9, True)):
        others = [Kind(str(i), np.arange(200) % 9 == i) for i in range(9)]
        right = np.arange(200) >= wrong
        found = compare_all([Kind("few", np.arange(200) < 9), *others], right, labels, alone(200))
        assert found.slices[0].weak == weak
        assert found.slices[0].low < found.slices[0].difference <= found.slices[0].high
    low, high = difference_interval(Side(0, 200), Side(1, 200), 0.95)
    assert 0.95 < low < high == 1


def test_the_interval_is_wider_with_more_kinds_and_a_complement_is_no_other_kind():
    labels, right = np.zeros(200, np.int64), np.arange(200) % 7 > 0
    half = np.arange(200) < 100
    one = compare_all([Kind("a", half), Kind("b", ~half)], right, labels, alone(200))
    assert (one.tried, one.slices[0].level) == (1, 0.95)
    assert one.slices[0].low == -one.slices[1].high
    kinds = [Kind(str(i), np.arange(200) % 11 == i) for i in range(9)]
    more = compare_all([Kind("a", half), *kinds], right, labels, alone(200))
    assert (more.tried, more.slices[0].level) == (10, 0.995)
    assert more.slices[0].low < one.slices[0].low < one.slices[0].high < more.slices[0].high


def test_kinds_that_cannot_be_compared_are_listed():
    labels = np.repeat([0, 1], 50)
    kinds = [Kind("few", np.arange(100) < 7), Kind("a whole class", labels == 1)]
    found = compare_all(kinds, np.ones(100, bool), labels, alone(100))
    assert (found.slices, found.tried) == ([], 0)
    assert found.too_small == ["few", "a whole class"]


# --- the kinds


def test_the_manifest_gives_sources_groups_and_sizes():
    facts = [("a", "", 10), ("a", "p", 20), ("b", "p", 30), ("", "q", 10), ("b", "r", 30)]
    rows = [
        ImageRow(f"{i}.png", "x", "test", f"digest {i}", "", group, source, -1, "PNG", "L", 1, n, 9)
        for i, (source, group, n) in enumerate(facts)
    ]
    dataset = PreparedDataset(rows, Path(), np.zeros(5, np.int64), ["x"], "", {})
    labels = np.zeros(5, np.int64)
    test = Predictions(np.arange(5), labels, np.ones((5, 1)), labels, [row.cluster for row in rows])
    kinds = {
        kind.name: kind.inside.nonzero()[0].tolist() for kind in kinds_by_manifest(dataset, test)
    }
    assert kinds == {
        "source: a": [0, 1], "source: b": [2, 4], "source: unknown": [3],
        "group size: 1 image": [0, 3, 4], "group size: 2 to 5 images": [1, 2],
        "size: smallest third": [0, 3], "size: middle third": [1], "size: largest third": [2, 4],
    }  # fmt: skip
    plain = [replace(row, source="", group="", height=1) for row in rows]
    assert list(kinds_by_manifest(replace(dataset, rows=plain), test)) == []


# --- with a real model


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PreparedDataset]:
    """A function that returns phantoms, those of some test images changed by another function."""
    labels = np.arange(320) % 2
    drawn = np.stack(
        [phantom((3, i), bool(x), (SIDE, SIDE), PLACE if x else None) for i, x in enumerate(labels)]
    )[..., None]
    splits = ["train"] * 160 + ["test"] * 160

    def make(change: Callable[[np.ndarray], np.ndarray], named: bool) -> PreparedDataset:
        images, other = drawn.copy(), np.arange(320) >= 280
        images[other] = change(images[other])
        file = tmp_path_factory.mktemp("phantoms") / "images.npy"
        np.save(file, images)
        sources = np.where(other, "B", "A").tolist()
        rows = [
            ImageRow(f"{i}.png", str(labels[i]), split, str(i), "", "", source * named, -1, "PNG",
                     "L", SIDE, SIDE, 9)
            for i, (split, source) in enumerate(zip(splits, sources, strict=True))
        ]  # fmt: skip
        return PreparedDataset(rows, file, labels, ["0", "1"], "", {})

    return make


@pytest.fixture(scope="module")
def trained(phantoms: Callable[..., PreparedDataset]) -> Classifier:
    """The default model, taught on the training phantoms."""
    return taught(phantoms(lambda images: images, named=False))


def spots_of(dataset: PreparedDataset, classifier: Classifier) -> WeakSpots:
    train = classifier.outputs(dataset.images[dataset.indices("train")]).features
    test = predict_split(classifier, dataset, "test")
    return find_weak_spots(dataset, classifier, train, test)


def test_clean_phantoms_have_no_weak_spot(
    trained: Classifier, phantoms: Callable[..., PreparedDataset]
):
    found = spots_of(phantoms(lambda images: images, named=True), trained)
    assert named(found) == []
    assert sum(entry.right for entry in found.slices[:2]) > 140  # it has learnt something
    assert {entry.name.split(" ")[0] for entry in found.slices} >= {
        "source:",
        "brightness:",
        "cluster",
    }


def test_a_source_of_dark_images_is_named(
    trained: Classifier, phantoms: Callable[..., PreparedDataset]
):
    found = spots_of(phantoms(lambda images: images // 10, named=True), trained)
    assert {"source: B", "brightness: darkest third"} <= set(named(found))
    assert "source: A" not in named(found)
    text = next(text for text in found.sentences if "source: B" in text)
    assert "on 40 images" in text


def test_dark_images_of_no_source_are_named_by_what_they_look_like(
    trained: Classifier, phantoms: Callable[..., PreparedDataset]
):
    found = spots_of(phantoms(lambda images: images // 10, named=False), trained)
    assert "brightness: darkest third" in named(found)
    assert not any(entry.name.startswith("source") for entry in found.slices)
    spot = next(entry for entry in found.slices if entry.weak and entry.name.startswith("cluster"))
    assert all(int(path.removesuffix(".png")) >= 280 for path in spot.examples)
    assert spot.mostly in ("0", "1")


def test_a_model_that_sees_nothing_has_no_clusters(
    trained: Classifier, phantoms: Callable[..., PreparedDataset]
):
    dataset = phantoms(lambda images: images, named=False)
    test = predict_split(trained, dataset, "test")
    blind = replace(test, features=np.zeros_like(test.features), predicted=test.labels * 0)
    found = find_weak_spots(dataset, trained, np.zeros((50, test.features.shape[1])), blind)
    assert named(found) == []
    assert not any("cluster" in entry.name for entry in found.slices)


# --- the card


def test_the_card_says_what_was_tried_and_names_the_weak_spots():
    labels, right = np.zeros(200, np.int64), np.arange(200) >= 30
    kinds = [Kind("source: B", np.arange(200) < 40), Kind("few", np.arange(200) < 3)]
    found = compare_all(kinds, right, labels, alone(200))
    card = report_texts.weak_spots({"weak_spots": asdict(found)})
    assert "1 more were too small" in card
    assert "**Weak spot: source: B: accuracy 0.250 on 40 images, 1.000 on the others" in card
    assert "(95% interval 0.5" in card
    clean = compare_all(kinds, right | True, labels, alone(200))
    assert "clearly worse" in report_texts.weak_spots({"weak_spots": asdict(clean)})
    none = compare_all([], right, labels, alone(200))
    assert "too few test images" in report_texts.weak_spots({"weak_spots": asdict(none)})


def test_the_pipeline_reports_its_weak_spots(project):
    found = project.read("build/evaluate/report.json")["weak_spots"]
    assert {entry["name"] for entry in found["slices"]} >= {"brightness: darkest third"}
    assert all(Slice(**entry).low <= entry["high"] for entry in found["slices"])
    card = (project.folder / "build/evaluate/model_card.md").read_text()
    assert f"of {found['tried']} kinds of test images that were compared" in card
