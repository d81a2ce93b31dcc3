"""Whether new images come from where the training images came from, and which are unusual."""

import asyncio
import base64
import io
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image, ImageFilter

from conftest import Project
from image_classifier import known_images
from image_classifier.__main__ import main
from image_classifier.classifier import WEIGHTS, Classifier, Metadata, write_metadata
from image_classifier.commands.serve import drift_answers
from image_classifier.config import compose
from image_classifier.evaluation.drift import CLASSES, measure_drift
from image_classifier.known_images import Measurements, join
from image_classifier.serving.application import Current, Served, application
from image_classifier.serving.image_service import ImageService
from image_classifier.serving.recent_images import RecentImages
from phantoms.drawing import phantom

SIZE = 64
NAMES = ["NORMAL", "COVID19"]


def draw(numbers: range, change=lambda image: image) -> np.ndarray:
    """Return phantoms, every second one with opacities; `change` is applied to Pillow images."""
    return np.stack(
        [
            np.asarray(change(Image.fromarray(phantom((7, n), n % 2 == 1, (SIZE, SIZE)))))[
                ..., None
            ]
            for n in numbers
        ]
    )


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1))


def brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255, value + 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights that knows 150 phantoms: 80 of training, 70 others."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((SIZE, SIZE, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(x)
    for filters in (8, 16, 32):
        x = layers.Conv2D(filters, 3, 2, "same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(1, "sigmoid")(x))
    folder = tmp_path_factory.mktemp("known")
    model.save(folder / WEIGHTS)
    metadata = Metadata(NAMES, 0.5, 1.0, SIZE, SIZE, 1, 2)
    write_metadata(folder, metadata)
    classifier = Classifier(model, metadata)
    train, validation, test = (
        classifier.outputs(draw(part)).measurements
        for part in (range(80), range(80, 120), range(120, 150))
    )
    known = known_images.know(train, validation, join([validation, test]))
    known_images.write(folder, known)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path):
    return Classifier.load(folder)


def test_changed_images_are_unusual_and_others_are_not(classifier):
    def flagged(pixels: np.ndarray) -> float:
        outputs = classifier.outputs(pixels)
        percentiles = classifier.known.percentiles(outputs.features, outputs.pixels)
        return float((percentiles >= 95).mean())

    assert flagged(draw(range(200, 300))) <= 0.12  # 5% is expected
    assert flagged(draw(range(200, 220), blurred)) > 0.9
    assert flagged(draw(range(200, 220), brighter)) > 0.9
    noise = np.random.default_rng(0).integers(0, 255, (20, SIZE, SIZE, 1), dtype=np.uint8)
    assert flagged(noise) == 1


def test_the_most_unusual_image_has_the_percentile_of_all_validation_images(classifier):
    outputs = classifier.outputs(np.full((1, SIZE, SIZE, 1), 255, np.uint8))
    assert classifier.known.percentiles(outputs.features, outputs.pixels) == 100 * 40 / 41


def measured(generator: np.random.Generator, count: int, classes: list[float]) -> Measurements:
    """Return measurements of which brightness and features depend on the class."""
    labels = generator.choice(len(classes), count, p=classes)
    features = generator.normal(labels[:, None] * 3, 1, (count, 6)).astype(np.float32)
    pixels = generator.normal([100, 50, 10], [20, 10, 2], (count, 3)).astype(np.float32)
    pixels[:, 0] += 30 * labels
    probabilities = np.eye(len(classes), dtype=np.float32)[labels]
    return Measurements(features, probabilities, pixels)


def test_of_samples_from_one_source_about_five_of_a_hundred_are_called_drifted():
    generator = np.random.default_rng(0)
    found = [
        measure_drift(
            measured(generator, 60, [0.5, 0.5]), measured(generator, 10, [0.5, 0.5]), ["a", "b"]
        )
        for _ in range(100)
    ]
    assert 0 < sum(one.drifted for one in found) <= 9  # of 100, with 5%, 98 of 100 times
    calm = next(one for one in found if not one.drifted)
    assert calm.images_needed is None
    assert calm.leading == ()
    assert calm.visible.startswith("a change of the brightness by ")


def test_the_change_that_would_have_been_seen_is_seen_with_a_power_of_80_percent():
    generator = np.random.default_rng(0)
    share = [0.5, 0.5]
    reference = measured(generator, 80, share)
    (words,) = {measure_drift(reference, measured(generator, 20, share), "ab").visible}
    change = float(words.split()[6])
    seen = 0
    for _ in range(30):
        new = measured(generator, 20, share)
        new.pixels[:, 0] += change
        names = [one.name for one in measure_drift(reference, new, "ab").leading]
        seen += "brightness" in names
    assert 0.6 <= seen / 30 <= 0.97


@pytest.mark.parametrize(("name", "index"), [("brightness", 0), ("contrast", 1), ("sharpness", 2)])
def test_a_change_of_pixels_is_named_with_both_values(name: str, index: int):
    generator = np.random.default_rng(1)
    reference, new = (measured(generator, count, [0.5, 0.5]) for count in (80, 40))
    new.pixels[:, index] *= 2
    found = measure_drift(reference, new, ["a", "b"])
    assert found.drifted
    assert [one.name for one in found.leading] == [name]
    usual = reference.pixels[:, index].mean()
    words = found.leading[0].text.split()
    assert float(words[1].strip(",")) == pytest.approx(2 * usual, rel=0.15)
    assert float(words[3]) == pytest.approx(usual, rel=0.15)
    assert 5 <= found.images_needed <= 20


def test_a_change_of_the_features_is_found_and_the_number_needed_is_true():
    generator = np.random.default_rng(0)
    reference, new = (measured(generator, count, [0.5, 0.5]) for count in (80, 100))
    new.features[:, :3] += 0.8
    found = measure_drift(reference, new, ["a", "b"])
    assert [one.name for one in found.leading] == ["content"]
    needed = found.images_needed
    assert 5 < needed < 50

    def power(count: int) -> float:
        tries = [measured(generator, count, [0.5, 0.5]) for _ in range(20)]
        for one in tries:
            one.features[:, :3] += 0.8
        return np.mean([measure_drift(reference, one, ["a", "b"]).drifted for one in tries])

    assert power(needed) >= 0.6
    assert power(5) < 0.8


def test_other_shares_of_the_classes_are_told_from_other_images():
    generator = np.random.default_rng(0)
    reference, new = measured(generator, 80, [0.5, 0.5]), measured(generator, 40, [0.95, 0.05])
    found = measure_drift(reference, new, ["cat", "dog"])
    assert found.only_classes
    assert "images of the same predicted class look as usual" in found.verdict
    assert found.leading[0].name == CLASSES
    assert found.leading[0].text == "predicted class cat 100%, usually 49%"
    new.pixels[:, 0] += 60
    assert not measure_drift(reference, new, ["cat", "dog"]).only_classes


def test_a_class_that_the_model_never_predicted_before_hides_no_change():
    generator = np.random.default_rng(0)
    reference, new = measured(generator, 80, [0.5, 0.5, 0]), measured(generator, 30, [0, 0, 1])
    new.pixels[:, 0] += 100
    names = {one.name for one in measure_drift(reference, new, ["a", "b", "c"]).leading}
    assert {"brightness", "content", CLASSES} <= names


def text_of(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def served_with(classifier: Classifier, **settings: int):
    """Return the server's application for a model, with other settings than the defaults."""
    limits = compose.config_of().serving.model_copy(update=settings)
    served = Served(
        uri="models:/m/1",
        service=ImageService(classifier, limits.image_limits),
        recent=RecentImages(limits.drift_images),
        drift=drift_answers(classifier, limits),
        explain=bytes,
        card="",
        report=None,
    )
    return application(Current(served), limits)


def ask(app, method: str, path: str, body: bytes = b"") -> tuple[int, dict]:
    """Send a request in JSON to an application; return the status and the answer."""
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    status, answer = 0, b""

    async def receive() -> dict:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop()

    async def send(message: dict) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return status, json.loads(answer)


def test_the_server_compares_the_last_images(classifier):
    app = served_with(classifier, drift_images=30)

    def send(pixels: np.ndarray) -> None:
        rows = [{"image": text_of(image)} for image in pixels]
        body = json.dumps({"inputs": rows}).encode()
        assert ask(app, "POST", "/invocations", body)[0] == 200

    send(draw(range(300, 304)))
    assert ask(app, "GET", "/drift") == (200, {"images": 4, "needed": 5})
    send(draw(range(304, 330)))
    status, answer = ask(app, "GET", "/drift")
    assert (status, answer["images"], answer["drifted"]) == (200, 30, False)
    assert "one of twenty" in answer["note"]
    send(draw(range(300, 330), blurred))  # the first 30 are forgotten
    status, answer = ask(app, "GET", "/drift")
    assert (status, answer["images"], answer["drifted"]) == (200, 30, True)
    assert answer["leading"][0].startswith("sharpness ")


def test_there_is_no_drift_where_it_is_off_or_the_model_cannot(classifier):
    status, answer = ask(served_with(classifier, drift_images=0), "GET", "/drift")
    assert (status, "serving.drift_images is 0" in answer["message"]) == (404, True)
    unknown = Classifier(classifier.model, classifier.metadata, None)
    status, answer = ask(served_with(unknown), "GET", "/drift")
    assert (status, "dvc repro -f -s evaluate" in answer["message"]) == (404, True)


def test_the_command_tells_changed_images_from_unchanged_ones(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    files = sorted((project.folder / "data/test").glob("*/*.jpg"))[::2]
    for name in ("same", "blurred"):
        (tmp_path / name).mkdir()
    for number, path in enumerate(files):
        shutil.copy(path, tmp_path / "same" / f"{number}.jpg")
        with Image.open(path) as image:
            image.convert("L").filter(ImageFilter.GaussianBlur(4)).save(
                tmp_path / "blurred" / f"{number}.png"
            )
    (tmp_path / "blurred" / "broken.jpg").write_text("not an image")
    output = project.command("drift", str(tmp_path / "blurred"), code=3)
    assert "They come from another source" in output
    assert "  sharpness " in output
    assert f"1 of {len(files) + 1} files skipped." in output
    assert f"{tmp_path / 'blurred'}/" in output.splitlines()[-1]

    monkeypatch.chdir(project.folder)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    assert main(["drift", str(tmp_path / "same")]) == 0
    assert "No difference was found" in capsys.readouterr().out
    assert main(["drift", *map(str, files[:4])]) == 1
    assert "4 images: the test whether they come" in capsys.readouterr().err
