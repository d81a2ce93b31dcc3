"""Tests of shortcuts on real small models: a planted shortcut is named, a clean set is not."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from image_classifier import classifier
from image_classifier.data import images
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.errors import InputError
from image_classifier.evaluation import metrics, shortcut_tests
from image_classifier.evaluation.predictions import Predictions, predict_split
from image_classifier.evaluation.shortcut_tests import ShortcutTest, run_shortcut_tests, sentence
from image_classifier.evaluation.threshold import best_youden
from image_classifier.project import paths

SIDE = 64
NUMBER, TRAINING = 200, 120


def mark(image: np.ndarray) -> None:
    image[1:6, -6:-1] = 255


def frame(image: np.ndarray) -> None:
    image[:2], image[-2:], image[:, :2], image[:, -2:] = 255, 255, 255, 255


def disc(image: np.ndarray) -> None:
    cv2.circle(image, (SIDE // 2, SIDE // 2), 7, 255, -1)


def nothing(image: np.ndarray) -> None:
    """Only the quality of the JPEG differs."""


PLANTED: dict[str, Callable[[np.ndarray], None]] = {
    "mark": mark, "frame": frame, "quality": nothing, "content": disc,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A dataset in which one thing tells the classes apart, and a model that has learnt it."""

    folder: Path
    dataset: PreparedDataset
    model: classifier.Classifier
    test: Predictions

    def measure(self, test: Predictions | None = None) -> dict[str, ShortcutTest]:
        with chdir(self.folder):
            found = run_shortcut_tests(self.dataset, self.model, test or self.test, 0.5)
        assert [one.name for one in found] == list(shortcut_tests.DESCRIPTIONS)
        json.dumps([asdict(one) for one in found], allow_nan=False)
        return {one.name: one for one in found}


def new_world(folder: Path, kind: str) -> World:
    """Write real files, decode them, and train a small CNN on them."""
    generator = np.random.default_rng(1)
    rows, arrays = [], []
    for index in range(NUMBER):
        label = index % 2
        noise = generator.normal(0, 1, (SIDE, SIDE))
        smooth = cv2.GaussianBlur(generator.normal(0, 1, (SIDE, SIDE)), (0, 0), 6)
        values = 110 + 25 * smooth / smooth.std() + 10 * noise
        image = np.rint(values.clip(0, 230)).astype(np.uint8)
        if label:
            PLANTED[kind](image)
        file = io.BytesIO()
        if kind == "quality":
            Image.fromarray(image).save(file, "JPEG", quality=10 if label else 95)
        else:
            Image.fromarray(image).save(file, "PNG")
        path = paths.RAW / str(label) / f"{index}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(file.getvalue())
        rows.append(
            ImageRow(
                f"{label}/{index}", str(label), "train" if index < TRAINING else "test",
                hashlib.sha256(file.getvalue()).hexdigest(), "0" * 144, "", "", -1,
                "JPEG" if kind == "quality" else "PNG", "L", SIDE, SIDE, len(file.getvalue()),
            )
        )  # fmt: skip
        arrays.append(images.decode(file.getvalue(), images.Rendering(SIDE, SIDE, 1)))
    np.save(folder / "images.npy", np.stack(arrays))
    labels = np.arange(NUMBER) % 2
    dataset = PreparedDataset(rows, folder / "images.npy", labels, ["0", "1"], "", {})
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 32, -4)(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.Concatenate()(
        [keras.layers.GlobalMaxPooling2D()(x), keras.layers.GlobalAveragePooling2D()(x)]
    )
    network = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    network.compile(keras.optimizers.Adam(0.005), "binary_crossentropy")
    pixels = np.stack(arrays[:TRAINING])
    network.fit(pixels, labels[:TRAINING], batch_size=20, epochs=12, verbose=0)
    limit = best_youden(labels[:TRAINING], np.asarray(network(pixels))[:, 0].astype(float))
    metadata = classifier.Metadata(["0", "1"], limit, 1.0, SIDE, SIDE, 1, images.DECODER_VERSION)
    model = classifier.Classifier(network, metadata)
    return World(folder, dataset, model, predict_split(model, dataset, "test"))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return {kind: new_world(tmp_path_factory.mktemp(kind), kind) for kind in PLANTED}


@pytest.fixture(scope="module")
def found(worlds: dict[str, World]) -> dict[str, dict[str, ShortcutTest]]:
    return {kind: world.measure() for kind, world in worlds.items()}


def suspicious(tests: dict[str, ShortcutTest]) -> set[str]:
    return {name for name, test in tests.items() if test.suspicious}


def test_every_model_has_learnt_what_was_planted(worlds: dict[str, World]):
    for kind, world in worlds.items():
        assert world.test.metrics["balanced_accuracy"] > 0.9, kind


@pytest.mark.parametrize("kind", ["mark", "frame"])
def test_a_mark_in_a_corner_and_a_frame_are_named_by_both_tests_of_the_border(
    found: dict[str, dict[str, ShortcutTest]], kind: str
):
    assert suspicious(found[kind]) == {"centre_hidden", "other_border"}
    swap = found[kind]["other_border"]
    assert swap.became_donor is not None
    assert swap.became_donor > 0.5 * swap.images
    assert found[kind]["border_hidden"].flipped >= 0.3 * swap.images


def test_a_quality_of_each_class_is_named_by_the_file(found: dict[str, dict[str, ShortcutTest]]):
    swap = found["quality"]["other_file"]
    assert swap.suspicious
    assert swap.balanced_accuracy is not None
    assert swap.balanced_accuracy.same_class == pytest.approx(swap.balanced_accuracy.model, abs=0.1)
    assert swap.balanced_accuracy.difference_low is not None
    assert swap.balanced_accuracy.difference_low > 0.2
    for kind in ("mark", "frame", "content"):  # nothing changes: all files are alike
        assert found[kind]["other_file"].flipped == 0


def test_a_model_that_uses_the_content_is_not_suspected(
    found: dict[str, dict[str, ShortcutTest]],
):
    assert suspicious(found["content"]) == set()
    assert found["content"]["border_hidden"].flipped <= 4


def test_a_model_that_is_not_above_chance_is_not_suspected_and_it_is_said(worlds: dict[str, World]):
    world = worlds["mark"]
    labels = np.arange(len(world.test.labels)) // 2 % 2  # half of each class
    tests = world.measure(replace(world.test, labels=labels))
    assert suspicious(tests) == set()
    assert all("not above chance" in test.remarks[-1] for test in tests.values())


def test_too_few_images_prove_nothing(worlds: dict[str, World]):
    test = worlds["frame"].test
    few = Predictions(
        test.rows[:4], test.labels[:4], test.probabilities[:4], test.predicted[:4],
        test.clusters[:4],
    )  # fmt: skip
    tests = worlds["frame"].measure(few)
    swap = tests["other_border"].balanced_accuracy
    assert swap is not None
    assert swap.difference is not None
    assert swap.difference > 0.4
    assert suspicious(tests) == set()


def test_deep_images_are_left_out_and_counted(worlds: dict[str, World]):
    world = worlds["quality"]
    rows = [
        replace(row, mode="I;16") if index in (150, 151, 152) else row
        for index, row in enumerate(world.dataset.rows)
    ]
    test = replace(world, dataset=replace(world.dataset, rows=rows)).measure()["other_file"]
    assert test.images == 77
    assert test.remarks[0].startswith("3 test images are left out: they have more than 8 bits")


def test_without_a_second_image_of_a_class_a_swap_says_so(worlds: dict[str, World]):
    test = worlds["mark"].test
    two = Predictions(
        test.rows[:2], test.labels[:2], test.probabilities[:2], test.predicted[:2], ["a", "b"]
    )
    swap = worlds["mark"].measure(two)["other_border"]
    assert (swap.images, swap.balanced_accuracy, swap.suspicious) == (0, None, False)
    assert "2 test images are left out: their class has no second" in sentence(asdict(swap))


def test_a_file_that_changed_after_split_is_refused(worlds: dict[str, World], tmp_path: Path):
    world = worlds["content"]
    folder = shutil.copytree(world.folder, tmp_path / "copy")
    row = world.dataset.rows[-1]
    (folder / paths.RAW / row.path).write_bytes(b"other")
    with pytest.raises(InputError, match=rf"{row.path} was deleted or changed.*dvc repro"):
        replace(world, folder=folder).measure()


def test_a_sentence_says_the_numbers_and_what_follows(found: dict[str, dict[str, ShortcutTest]]):
    text = sentence(asdict(found["frame"]["other_border"]))
    assert text.startswith("With the border of an image of another class, the model reaches a")
    assert text.endswith("So the answers depend on the class of the border.")
    assert "So " not in sentence(asdict(found["content"]["other_border"]))


def test_a_sample_keeps_the_shares_of_the_classes():
    labels = np.array([0] * 900 + [1] * 97 + [2] * 3)
    chosen = shortcut_tests.stratified(np.arange(1000), labels, 500)
    assert np.bincount(labels[chosen]).tolist() == [450, 48, 2]
    assert (chosen == shortcut_tests.stratified(np.arange(1000), labels, 500)).all()
    assert len(shortcut_tests.stratified(np.arange(400), labels[:400], 500)) == 400


def test_donors_are_of_other_patients_and_each_is_used_once():
    labels = np.repeat([0, 1], 40)
    clusters = [str(index // 2) for index in range(80)]
    donors = shortcut_tests.draw_donors(labels, clusters)
    assert (labels[donors.same] == labels).all()
    assert (labels[donors.other] != labels).all()
    for given in (donors.same, donors.other):
        assert sorted(given) == list(range(80))
        assert all(clusters[i] != clusters[donor] for i, donor in enumerate(given))
    assert len(np.unique(donors.clusters)) == 40
    assert (donors.clusters[::2] == donors.clusters[1::2]).all()


def test_images_with_the_same_donor_count_as_one_cluster():
    labels = np.array([0] * 60 + [1] * 3)
    donors = shortcut_tests.draw_donors(labels, [str(index) for index in range(63)])
    assert len(np.unique(donors.clusters[:60])) == 3
    single = shortcut_tests.draw_donors(np.array([0, 0, 1]), ["a", "b", "c"])
    assert single.same.tolist() == [1, 0, -1]


def test_a_patient_with_images_of_both_classes_never_gives_to_itself():
    labels = np.arange(40) % 2
    clusters = [str(index // 2) for index in range(40)]
    donors = shortcut_tests.draw_donors(labels, clusters)
    assert all(index // 2 != donor // 2 for index, donor in enumerate(donors.other))
    assert all(index // 2 != donor // 2 for index, donor in enumerate(donors.same))


def stored(path: Path, **options: object) -> shortcut_tests.FileFacts:
    """Write a colourful image into build/raw, and return the facts of its file."""
    generator = np.random.default_rng(3)
    values = cv2.GaussianBlur(generator.normal(0, 1, (40, 60, 3)), (0, 0), 3)
    image = Image.fromarray((128 + 900 * values).clip(0, 255).astype(np.uint8))
    image = image.convert(str(options.pop("mode", "RGB")))
    (paths.RAW / path).parent.mkdir(parents=True, exist_ok=True)
    with (paths.RAW / path).open("wb") as file:
        image.save(file, **options)
    content = (paths.RAW / path).read_bytes()
    known, _ = images.inspect(content)
    return shortcut_tests.file_facts(
        ImageRow(
            str(path), "a", "test", hashlib.sha256(content).hexdigest(), "", "", "", -1,
            known.format, known.mode, known.width, known.height, len(content),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"format": "JPEG", "quality": 33, "subsampling": 1},
        {"format": "JPEG", "quality": 71, "mode": "L"},
        {"format": "JPEG", "quality": 50, "mode": "CMYK"},
        {"format": "PNG", "mode": "P"},
        {"format": "PNG", "mode": "1"},
        {"format": "PNG"},
        {"format": "WEBP"},
    ],
)
def test_a_file_gets_the_facts_of_another(empty_project: Path, options: dict[str, object]):
    facts = stored(Path("donor"), **options)
    file = io.BytesIO()
    Image.new("RGB", (300, 200), (9, 99, 200)).save(file, "PNG")
    with Image.open(io.BytesIO(shortcut_tests.encoded_like(file.getvalue(), facts))) as image:
        assert (image.format, image.mode, image.size) == (
            options["format"], options.get("mode", "RGB"), (60, 40),
        )  # fmt: skip
        if options["format"] == "JPEG":
            with Image.open(paths.RAW / "donor") as donor:
                assert image.quantization == donor.quantization
                assert JpegImagePlugin.get_sampling(image) == JpegImagePlugin.get_sampling(donor)


def test_a_file_that_is_turned_by_exif_has_its_upright_size(empty_project: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = stored(Path("turned"), format="JPEG", exif=exif)
    assert (facts.width, facts.height) == (40, 60)


def test_encoding_again_with_the_same_facts_changes_nearly_nothing(empty_project: Path):
    facts = stored(Path("same"), format="JPEG", quality=40, mode="L")
    content = (paths.RAW / "same").read_bytes()
    rendering = images.Rendering(40, 60, 1)
    before = images.decode(content, rendering).astype(int)
    after = images.decode(shortcut_tests.encoded_like(content, facts), rendering)
    assert np.abs(before - after).mean() < 1


@pytest.mark.parametrize("classes", [2, 4])
def test_the_metrics_of_all_samples_at_once_are_those_of_each_sample(classes: int):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 30)
    values = generator.integers(1, 6, (30, classes)).astype(float)  # with ties
    probabilities = values / values.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    # samples that lack a class, and one that has a single class, are among them
    samples = [generator.integers(0, 30, size) for size in (30, 30, 5, 4, 3, 1)]
    weights = np.array([np.bincount(rows, minlength=30) for rows in samples], float)
    accuracies = shortcut_tests.weighted_balanced_accuracy(weights, labels, predicted)
    areas = shortcut_tests.weighted_roc_auc(weights, labels, probabilities)
    for rows, accuracy, area in zip(samples, accuracies, areas, strict=True):
        known = metrics.classification_metrics(labels[rows], probabilities[rows], predicted[rows])
        name = "roc_auc" if classes == 2 else "roc_auc_macro"
        assert accuracy == pytest.approx(known["balanced_accuracy"])
        assert area == pytest.approx(known[name], nan_ok=True)
