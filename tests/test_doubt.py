"""Plausible classes, unusual images and the answer `unknown`: what is promised and kept."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas
import pytest
from PIL import Image
from scipy.stats import beta

from conftest import Project
from image_classifier import known_images
from image_classifier.classifier import WEIGHTS, Classifier, Metadata, Outputs, write_metadata
from image_classifier.config import compose
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.images import DECODER_VERSION
from image_classifier.data.manifest import ImageRow
from image_classifier.data.near_duplicates import fingerprint
from image_classifier.errors import InputError
from image_classifier.evaluation import doubt, model_card, report_texts
from image_classifier.evaluation.bootstrap import exact_interval, share_interval
from image_classifier.evaluation.predictions import Predictions, predict_split
from image_classifier.serving import pyfunc_model
from image_classifier.serving.prediction import predictions


def coverage_of_a_draw(
    generator: np.random.Generator, sizes: Sequence[int], ease: float = 0, pooled: bool = False
) -> float:
    """Return the share of new images that a limit for 90% covers.

    All images of a cluster have nearly the same probability of the true class; with a positive
    `ease` it is higher in large clusters. `pooled` takes them for independent.
    """

    def draw(clusters: int) -> tuple[np.ndarray, np.ndarray]:
        size = generator.choice(sizes, clusters)
        number = np.repeat(np.arange(clusters), size)
        mean = generator.normal(0, 1, clusters) + ease * np.log(size)
        logits = mean[number] + generator.normal(0, 0.1, len(number))
        return number, 1 / (1 + np.exp(-logits))

    number, of_truth = draw(39)
    names = range(len(number)) if pooled else number
    limit = doubt.plausible_limit(
        np.zeros(len(number), int),
        np.stack([of_truth, 1 - of_truth], axis=1),
        0.9,
        [str(name) for name in names],
    )
    new_number, new = draw(400)
    return float(np.average(new >= limit, weights=1 / np.bincount(new_number)[new_number]))


def test_the_mean_coverage_is_what_was_asked_for():
    generator = np.random.default_rng(0)
    found = [coverage_of_a_draw(generator, [1]) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.9, abs=0.004)  # 36 of 40 exactly; its error is 0.001
    # and the coverage of one model is in the range that the model card names
    low, high = doubt.coverage_range(39, 0.9)
    assert np.mean([low <= value <= high for value in found]) == pytest.approx(0.95, abs=0.03)
    assert (low, high) == pytest.approx(beta.ppf([0.025, 0.975], 36, 4))


def test_with_clusters_the_coverage_holds_for_an_image_of_a_new_cluster():
    for ease, of_pooled in ((0.5, (0.5, 0.88)), (-0.5, (0.92, 1.0))):
        generator, sizes = np.random.default_rng(0), [1, 1, 1, 30]
        found = [coverage_of_a_draw(generator, sizes, ease) for _ in range(400)]
        assert 0.897 < np.mean(found) < 0.92
        # images of one patient that are taken for independent promise too much, or too little
        found = [coverage_of_a_draw(generator, sizes, ease, pooled=True) for _ in range(400)]
        assert of_pooled[0] < np.mean(found) < of_pooled[1]


def test_too_few_validation_images_make_every_class_plausible():
    probabilities = np.full((19, 2), 0.5)
    labels = np.zeros(19, int)
    names = [str(number) for number in range(19)]
    assert doubt.plausible_limit(labels, probabilities, 0.95, names) == 0.5  # 1 of 20 is 5%
    assert doubt.plausible_limit(labels[1:], probabilities[1:], 0.95, names[1:]) == 0
    assert doubt.plausible_limit(labels, probabilities, 0.95, ["one patient"] * 19) == 0
    assert doubt.coverage_range(18, 0.95) == (1, 1)


def test_the_interval_of_a_share():
    chosen, clusters = np.array([True] * 9 + [False]), [str(number) for number in range(10)]
    found = share_interval(chosen, clusters)
    assert (found["low"], found["high"]) == pytest.approx(exact_interval(9, 10))
    # one patient with nine images and one with one: two independent observations
    patients = ["a"] * 9 + ["b"]
    assert share_interval(chosen, patients)["value"] == 0.9
    equal = share_interval(chosen, patients, equally=True)
    assert tuple(equal.values()) == pytest.approx((0.5, 0, 1), abs=0.01)
    assert share_interval(chosen[:9], patients[:9])["low"] == pytest.approx(exact_interval(1, 1)[0])


def test_a_class_is_low_only_if_that_is_no_chance():
    entries = {"a": (0.8, 100), "b": (0.8, 5), "c": (0.94, 100), "d": (1.0, 40)}
    by_class = {name: {"value": v, "clusters": n} for name, (v, n) in entries.items()}
    assert doubt.low_classes(by_class, 0.95) == ["a"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """120 grey images, dark (class a) or bright (b), and some between; with noise."""
    folder = tmp_path_factory.mktemp("prepared")
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    levels = np.where(labels, 150, 100) + generator.normal(0, 20, 120)
    pixels = levels[:, None, None, None] + generator.normal(0, 20, (120, 16, 16, 1))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    np.save(folder / "images.npy", pixels)
    rows = []
    for index, image in enumerate(pixels):
        Image.fromarray(image[:, :, 0]).save(folder / f"{index}.png")
        file = fingerprint(folder / f"{index}.png")
        split = ("train", "validation", "test")[index // 40]
        rows.append(
            ImageRow(f"{index}.png", "ab"[labels[index]], split, file.sha256, file.perceptual_hash,
                     "", "", -1, "PNG", "L", 16, 16, 9)
        )  # fmt: skip
    return PreparedDataset(rows, folder / "images.npy", labels, ["a", "b"], "", {})


@pytest.fixture(scope="module")
def evaluated(
    prepared: PreparedDataset,
) -> tuple[Classifier, known_images.KnownImages, Predictions, Predictions]:
    """A model of the mean brightness, with what `evaluate` gives it, and its predictions."""
    mean, scaled = keras.layers.GlobalAveragePooling2D(), keras.layers.Rescaling(1 / 10, -12.5)
    output = keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")
    model = keras.Sequential([keras.Input((16, 16, 1), dtype="uint8"), scaled, mean, output])
    metadata = Metadata(["a", "b"], 0.5, 1.0, 16, 16, 1, DECODER_VERSION)
    classifier = Classifier(model, metadata)
    validation = predict_split(classifier, prepared, "validation")
    limit = doubt.plausible_limit(
        validation.labels, validation.probabilities, 0.95, validation.clusters
    )
    classifier = classifier.with_metadata(
        replace(metadata, coverage=0.95, plausible_limit=limit, unusual_percentile=95)
    )
    test = predict_split(classifier, prepared, "test")
    config = compose.config_of("evaluation.remember_images=true")
    known = doubt.know_images(config, prepared, classifier, validation, test)
    classifier.known = known
    return classifier, known, validation, test


def answers(classifier: Classifier, outputs: Outputs, *when: str, **more: float) -> list:
    metadata = replace(classifier.metadata, unknown=when)
    return predictions(classifier.with_metadata(metadata), outputs, **more)


def test_the_coverage_of_the_test_images_is_measured(evaluated: tuple):
    classifier, known, validation, test = evaluated
    found = doubt.measure_doubt(classifier, known, validation, test)
    right = [
        row[label] >= classifier.metadata.plausible_limit or label == predicted
        for row, label, predicted in zip(
            test.probabilities, test.labels, test.predicted, strict=True
        )
    ]
    assert found["covered"]["value"] == pytest.approx(np.mean(right))
    assert found["covered"]["value"] >= np.mean(test.predicted == test.labels)
    assert found["covered"]["high"] > 0.95
    assert found["sizes"][0] == 0
    assert found["sizes"][2] > 0  # some images are between the classes
    assert sum(found["sizes"]) == 40
    assert found["unknown"] is None


def test_unknown_leaves_metrics_and_probabilities_alone(evaluated: tuple):
    classifier, known, validation, test = evaluated
    wanted = classifier.with_metadata(
        replace(classifier.metadata, unknown=("ambiguous", "unusual"))
    )
    assert (wanted.decide(test.probabilities) == test.predicted).all()
    found = doubt.measure_doubt(wanted, known, validation, test)["unknown"]
    outputs = Outputs(test.probabilities, test.features, test.pixels)
    labels = [answer["label"] for answer in answers(classifier, outputs, *found["when"])]
    unknown = np.array(labels) == "unknown"
    assert found["images"] == unknown.sum() > 0
    known_right = (test.predicted == test.labels)[~unknown]
    assert found["accuracy"]["value"] == pytest.approx(known_right.mean())
    plain = answers(classifier, outputs)
    assert not any(answer["label"] == "unknown" for answer in plain)
    with_unknown = answers(classifier, outputs, *found["when"])
    for one, other in zip(plain, with_unknown, strict=True):
        assert {**one, "label": ""} == {**other, "label": ""}


def test_ambiguous_and_unusual_images_are_unknown_where_the_settings_want_it(evaluated: tuple):
    classifier, known, _, _ = evaluated
    usual, odd = known.train[:1], known.train[:1] + 1000
    sure, between = np.float32([[0.01, 0.99]]), np.float32([[0.5, 0.5]])
    for probabilities, features, when in (
        (between, usual, "ambiguous"),
        (sure, odd, "unusual"),
    ):
        outputs = Outputs(probabilities, features, known.train_pixels[:1])
        assert answers(classifier, outputs, when)[0]["label"] == "unknown"
        other = {"ambiguous": "unusual", "unusual": "ambiguous"}[when]
        assert answers(classifier, outputs, other)[0]["label"] == "b"
        assert answers(classifier, outputs)[0]["label"] == "b"
    (odd_one,) = answers(classifier, Outputs(sure, odd, known.train_pixels[:1]))
    assert odd_one["unusual"] == pytest.approx(100 * 40 / 41)
    assert answers(classifier, Outputs(between, usual, known.train_pixels[:1]))[0]["plausible"] == [
        "a",
        "b",
    ]


def test_the_predicted_class_is_always_plausible_also_with_another_threshold(evaluated: tuple):
    classifier = evaluated[0].with_metadata(replace(evaluated[0].metadata, plausible_limit=0.95))
    known = evaluated[1]
    outputs = Outputs(np.float32([[0.2, 0.8]]), known.train[:1], known.train_pixels[:1])
    assert answers(classifier, outputs, "ambiguous")[0]["plausible"] == ["b"]
    (moved,) = answers(classifier, outputs, "ambiguous", threshold=0.9)
    assert moved["plausible"] == ["a", "b"]
    assert moved["label"] == "unknown"
    assert moved["probability"] == pytest.approx(0.2)  # of the class a, which the threshold wants


def test_a_stored_model_says_plausible_unusual_and_seen(
    evaluated: tuple, prepared: PreparedDataset, tmp_path: Path
):
    classifier, known, _, _ = evaluated
    (tmp_path / "model").mkdir()
    classifier.model.save(tmp_path / "model" / WEIGHTS)
    metadata = replace(classifier.metadata, unknown=("ambiguous",))
    write_metadata(tmp_path / "model", metadata)
    known_images.write(tmp_path / "model", known)
    (tmp_path / "limits.json").write_text(
        '{"maximum_images": 9, "maximum_image_bytes": 99999, "maximum_pixels": 9999}'
    )
    mlflow.pyfunc.save_model(
        tmp_path / "stored",
        python_model=pyfunc_model.__file__,
        artifacts={
            "classifier": str(tmp_path / "model"), "limits": str(tmp_path / "limits.json")
        },
        code_paths=[str(Path(pyfunc_model.__file__).parents[1])],
        signature=pyfunc_model.signature(metadata, remembers=True),
        pip_requirements=[],
    )  # fmt: skip
    model = mlflow.pyfunc.load_model(str(tmp_path / "stored"))
    folder = prepared.images_file.parent
    contents = [(folder / f"{number}.png").read_bytes() for number in (0, 41, 80)]
    with Image.open(folder / "0.png") as image:
        again = io.BytesIO()
        image.resize((32, 32)).save(again, "PNG")
    grey = io.BytesIO()
    Image.new("L", (16, 16), 125).save(grey, "PNG")
    texts = [base64.b64encode(c).decode() for c in [*contents, again.getvalue(), grey.getvalue()]]
    found = model.predict(pandas.DataFrame({"image": texts}), params={"threshold": 0.5})
    assert [answer["seen"] for answer in found] == ["exactly", "exactly", "no", "near copy", "no"]
    assert found[-1]["label"] == "unknown"
    assert found[-1]["plausible"] == ["a", "b"]
    assert all(0 <= answer["unusual"] <= 100 * 40 / 41 for answer in found)


def test_only_models_that_remember_images_store_them(
    evaluated: tuple, prepared: PreparedDataset, tmp_path: Path
):
    classifier, known, validation, test = evaluated
    plain = doubt.know_images(compose.config_of(), prepared, classifier, validation, test)
    known_images.write(tmp_path, plain)
    assert prepared.rows[0].sha256.encode() not in (tmp_path / known_images.FILE).read_bytes()
    assert known_images.read(tmp_path).digests == frozenset()
    assert (
        "seen"
        not in answers(classifier, Outputs(test.probabilities, test.features, test.pixels))[0]
    )
    # training and validation images, and those that the first weights have seen; no test image
    old = replace(prepared.rows[0], sha256="f" * 64)
    config = compose.config_of("evaluation.remember_images=true")
    inherited = doubt.know_images(config, prepared, classifier, validation, test, [old])
    assert inherited.digests == known.digests | {"f" * 64}
    assert known.digests == {row.sha256 for row in prepared.rows if row.split != "test"}


def test_a_class_called_unknown_is_refused_where_it_would_be_an_answer():
    doubt.check_unknown(["cat", "unknown"], compose.config_of())
    with pytest.raises(InputError, match=r"rename the class, or set evaluation.unknown=\[\]"):
        doubt.check_unknown(["cat", "unknown"], compose.config_of("evaluation.unknown=[unusual]"))


def test_the_pipelines_report_and_card_say_what_was_measured(project: Project):
    report = project.read("build/evaluate/report.json")
    found = report["doubt"]
    with (project.folder / "build/evaluate/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    covered = [
        row["actual"] == row["predicted"]
        or float(row[f"p_{row['actual']}"]) >= min(found["plausible_limit"], 0.5)
        for row in rows
    ]
    assert found["covered"]["value"] == pytest.approx(np.mean(covered))
    text = report_texts.doubt(report)
    assert f"{found['validation_clusters']} independent validation images" in text
    assert f"it is {found['covered']['value']:.1%} (95% interval" in text
    assert f"among them for {found['covered']['value']:.1%} (95%" in model_card.write(report)
    client = mlflow.MlflowClient(project.store)
    metrics = client.get_run(report["run_id"]).data.metrics
    assert metrics["test_coverage"] == pytest.approx(found["covered"]["value"])
    assert metrics["test_unusual"] == pytest.approx(found["unusual"]["value"])


def test_the_card_says_where_a_class_is_low_what_unknown_does_and_what_is_impossible(
    project: Project,
):
    report = project.read("build/evaluate/report.json")
    assert "clearly lower" not in report_texts.doubt(report)
    assert "`unknown`" not in report_texts.doubt(report)
    assert report_texts.doubt_warnings(report) == []
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    report["doubt"] |= {
        "low_classes": ["COVID19"],
        "covered_by_class": {"COVID19": half},
        "unknown": {"when": ["ambiguous"], "share": half, "accuracy": half},
        "range": {"low": 1.0, "high": 1.0},
        "validation_images": 9,
    }
    lower = "clearly lower for COVID19, 50.0% (95% interval 40.0% to 60.0%)"
    assert lower in report_texts.doubt(report)
    card = model_card.write(report)
    assert "The answer is `unknown` when an image is ambiguous: for 50.0%" in card
    assert "So every prediction is `unknown`." in card
    assert "No image can be unusual: 9 validation images are too few" in card
    assert "WARNING: Every class is plausible for every image" in model_card.summary(report)
