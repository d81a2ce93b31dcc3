"""Exported models: the same answers without this package and without TensorFlow, or a failure."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest

from conftest import ROOT, Project, copy_of
from image_classifier.commands.export import origin, require_fitting, require_possible
from image_classifier.config.compose import load
from image_classifier.data import images
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.export import run
from test_odd_images import FILES

FORMS = {"onnx": ["onnx"], "litert": ["litert"], "litert_int8": ["litert", "--int8"]}


@pytest.fixture(scope="module")
def exported(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the trained project with its champion exported in three forms."""
    copy = copy_of(project, tmp_path_factory.mktemp("export") / "project")
    for form, words in FORMS.items():
        output = copy.command("export", "--format", *words, form)
        assert "80 test images, the same pixels" in output
    return copy


@pytest.fixture
def without_package(tmp_path: Path) -> str:
    """A folder for PYTHONPATH, with which this package, TensorFlow and Keras cannot be imported."""
    for name in ("image_classifier", "tensorflow", "keras"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')")
    return str(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_the_golden_images_get_the_expected_answers_without_this_package(
    exported: Project, without_package: str, form: str
):
    program = str(exported.folder / form / "run.py")
    output = exported.run(sys.executable, program, "--check", PYTHONPATH=without_package)
    assert output.count("\nok ") + output.startswith("ok ") == 20
    assert "all are as expected" in output


def test_a_golden_image_with_another_answer_is_an_error(
    exported: Project, without_package: str, tmp_path: Path
):
    folder = tmp_path / "changed"
    shutil.copytree(exported.folder / "onnx", folder)
    expected = json.loads((folder / "golden/expected.json").read_text())
    name, values = next(iter(expected["probabilities"].items()))
    expected["probabilities"][name] = [value + 0.001 for value in values]
    (folder / "golden/expected.json").write_text(json.dumps(expected))
    program = str(folder / "run.py")
    output = exported.run(sys.executable, program, "--check", code=1, PYTHONPATH=without_package)
    assert f"DIFFERS {name}: by 0.001" in output
    assert output.count("DIFFERS") == 1


def test_it_answers_as_the_original_model_does(
    exported: Project, without_package: str, tmp_path: Path
):
    (tmp_path / "broken.jpg").write_text("not an image")
    lines = (exported.folder / "build/evaluate/predictions.csv").read_text().splitlines()
    wanted = list(csv.DictReader(lines))
    assert len(wanted) == 80
    files = [f"build/raw/{row['path']}" for row in wanted]
    program = str(exported.folder / "onnx/run.py")
    words = [sys.executable, program, *files, str(tmp_path / "broken.jpg")]
    output = exported.run(*words, code=1, PYTHONPATH=without_package)
    assert f"skipped {tmp_path / 'broken.jpg'}" in output
    found = list(csv.DictReader(output[output.index("path,label") :].splitlines()))
    for row, other, file in zip(found, wanted, files, strict=False):
        assert (row["path"], row["label"]) == (file, other["predicted"])
        assert float(row["p_COVID19"]) == pytest.approx(float(other["p_COVID19"]), abs=1e-5)


def test_the_folder_is_an_artifact_of_the_version(exported: Project, tmp_path: Path):
    client = mlflow.MlflowClient(exported.store)
    version = client.get_model_version_by_alias("synthetic-xray-classifier", "champion")
    for form in FORMS:
        place = f"export/synthetic-xray-classifier/{version.version}/{form}"
        assert version.tags[f"export_{form}"] == f"runs:/{version.run_id}/{place}"
        stored = Path(client.download_artifacts(version.run_id, place, str(tmp_path)))
        for path in (exported.folder / form).rglob("*.*"):
            theirs = stored / path.relative_to(exported.folder / form)
            assert "__pycache__" in path.parts or theirs.read_bytes() == path.read_bytes()


def test_the_texts_say_what_the_model_is_and_how_it_differs(exported: Project):
    readme = (exported.folder / "onnx/README.md").read_text()
    assert "Synthetic phantoms" in readme
    assert "Not a medical device" in readme
    assert "onnxruntime==" in readme
    parity = (exported.folder / "litert_int8/parity.md").read_text()
    assert "\nPassed.\n" in parity
    assert "`run.py` reads 80 of 80 files, 80 with exactly the pixels" in parity
    assert "training images of all classes need" in parity
    facts = exported.read("onnx/model.json")
    assert facts["classes"] == ["NORMAL", "COVID19"]
    names = {path.name for path in (exported.folder / "onnx").iterdir()} - {"__pycache__"}
    assert names == {
        "README.md", "golden", "model.json", "model.onnx", "model_card.md", "parity.md", "run.py",
    }  # fmt: skip
    sizes = [
        (exported.folder / form / "model.tflite").stat().st_size
        for form in ("litert_int8", "litert")
    ]
    assert sizes[0] < sizes[1] / 2


def test_a_difference_above_the_limit_fails(exported: Project):
    output = exported.command(
        "export", "--format", "litert", "--int8", "--limit", "0.000001", "strict", code=1
    )
    assert "the limit is 1e-06" in output
    assert not (exported.folder / "strict").exists()
    assert "**Failed.**" in (exported.folder / "strict.failed/parity.md").read_text()
    assert "Traceback" not in output


def test_it_refuses_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def possible(kind: str, folder: str = "new", int8: bool = False) -> None:
        require_possible(SimpleNamespace(format=kind, folder=tmp_path / folder, int8=int8))

    possible("onnx")
    (tmp_path / "full").mkdir()
    possible("onnx", "full")  # it is empty
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(InputError, match="full exists"):
        possible("onnx", "full")
    with pytest.raises(InputError, match="only for --format litert"):
        possible("onnx", int8=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"onnxruntime: pip install -e '.\[export\]'"):
        possible("onnx")
    possible("litert", int8=True)


def test_other_images_than_those_of_the_model_are_said_or_refused(
    project: Project, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]
):
    from image_classifier.classifier import Metadata
    from image_classifier.tracking.registry import Version

    config = load(project.folder / "params.yaml")
    metadata = Metadata(dataset.classes, 0.5, 1, *config.image.shape, decoder=2)
    require_fitting(config, dataset, metadata)
    with pytest.raises(InputError, match="does not fit the prepared images"):
        require_fitting(config, dataset, replace(metadata, height=50))
    with pytest.raises(InputError, match="does not fit the prepared images"):
        require_fitting(config, dataset, replace(metadata, scale=(0.0, 4095.0)))
    sentence, note = origin(config, dataset, Version("m", "1", "r", {"manifest_digest": "other"}))
    assert "was not trained with the images in build/" in capsys.readouterr().err
    assert sentence.startswith("Other images than those")
    assert note == ""  # the remark is on the images here


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [None, (0.0, 4095.0)])
def test_run_reads_the_same_pixels_or_refuses_the_file(
    fit: images.Fit, channels: int, scale: tuple[float, float] | None
):
    rules = {
        "formats": images.FORMATS, "height": 24, "width": 20, "fit": fit, "scale": scale,
        "mode": "RGB" if channels == 3 else "L",
    }  # fmt: skip
    photographs = sorted((ROOT / "data/test").rglob("*.jpg"))[:3]
    read = 0
    for path in [*FILES, *photographs]:
        try:
            pixels = run.decode(path, rules)
        except Exception:
            continue
        read += 1
        wanted = images.decode(path, images.Rendering(24, 20, channels, fit, scale))
        assert np.array_equal(pixels, wanted), path.name
    assert read >= (20 if scale is None else 25)


def test_run_does_not_cut_16_bits_in_silence():
    rules = {
        "formats": images.FORMATS, "height": 24, "width": 24, "fit": "pad", "scale": None,
        "mode": "RGB",
    }  # fmt: skip
    for name in ("12 bits of colour.png", "12 bits.png", "12 bits.pgm"):
        path = next(path for path in FILES if path.name == name)
        with pytest.raises(ValueError, match="more than 8 bits"):
            run.decode(path, rules)
        with pytest.raises(UnreadableImage):
            images.decode(path, images.Rendering(24, 24, 3, "pad"))


@pytest.mark.parametrize(
    ("classes", "channels", "precision"), [(2, 1, "float32"), (3, 3, "float32"), (2, 3, "half")]
)
def test_mirror_image_temperature_and_classes_are_part_of_the_graph(
    tmp_path: Path, classes: int, channels: int, precision: str
):
    import keras

    from image_classifier.classifier import Classifier, Metadata
    from image_classifier.export import convert

    keras.utils.set_random_seed(1)
    kind = "mixed_float16" if precision == "half" else "float32"
    inputs = x = keras.Input((24, 20, channels), dtype="uint8")
    for layer in (
        # its numbers are tensors: the backbones of EfficientNet begin like this
        keras.layers.Normalization(mean=[120.0] * channels, variance=[4000.0] * channels),
        keras.layers.Conv2D(4, 3, activation="relu", dtype=kind),
        keras.layers.Flatten(),
        keras.layers.Dense(1, "sigmoid") if classes == 2 else keras.layers.Dense(3, "softmax"),
    ):
        x = layer(x)
    metadata = Metadata(
        [str(index) for index in range(classes)], 0.5, 0.7, 24, 20, channels, 2, flip=True
    )
    classifier = Classifier(keras.Model(inputs, x), metadata)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 20, channels), dtype=np.uint8)
    wanted = classifier.probabilities(pixels)
    assert wanted.std(axis=0).max() > 0.01
    model = convert.answering_model(classifier)
    for form in ("onnx", "litert", "saved_model"):
        found = run.RUNTIMES[form](convert.convert(model, form, tmp_path))(pixels)
        assert found.dtype == np.float32
        assert found == pytest.approx(wanted, abs=0.01 if precision == "half" else 1e-5)
