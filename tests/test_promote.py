"""The gate, with real models, in a real MLflow store: a file, and twice a server."""

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from omegaconf import OmegaConf
from PIL import Image

from conftest import ROOT, Project
from image_classifier import classifier
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import (
    ImageRow,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from image_classifier.data.manifest import (
    test_digest as digest_of_test_set,
)
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.promote import (
    below_minimums,
    promote,
    unrecognised_classes,
    whether_below,
)
from image_classifier.tracking import champion as aliases
from image_classifier.tracking import ledger, runs
from image_classifier.tracking import registry as models

# enough errors for the first champion that a version without errors is certainly better
LENIENT = ("promotion.minimum_accuracy=0.5", "promotion.minimum_sensitivity=0.5")
BRIGHTNESS = {"NORMAL": range(4, 124, 3), "COVID19": range(132, 252, 3)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store in a file: ten times as fast as a server."""
    folder = tmp_path_factory.mktemp("store")
    address = f"sqlite:///{folder}/mlflow.db"
    place = (folder / "mlartifacts").as_uri()
    mlflow.MlflowClient(address).create_experiment("image-classifier", place)
    return address


@pytest.fixture
def registry(images: None, monkeypatch: pytest.MonkeyPatch, store: str) -> mlflow.MlflowClient:
    """The store, with the test images in the working folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return mlflow.MlflowClient(store)


@pytest.fixture
def served_registry(
    images: None, monkeypatch: pytest.MonkeyPatch, tracking_server: str
) -> mlflow.MlflowClient:
    """A server, with the test images in the working folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server)
    return mlflow.MlflowClient(tracking_server)


@pytest.fixture
def images(empty_project: Path, name: str) -> None:
    """Eighty test images of one brightness each: only the bright ones are positive.

    Each test has contents of its own, so no other test has looked at its test set.
    """
    rows = []
    for label, values in BRIGHTNESS.items():
        for value in values:
            path = Path(label) / f"{value}.png"
            (paths.RAW / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (value,) * 3).save(paths.RAW / path)
            rows.append(row(str(path), label, "test", f"{name} {path}"))
    rows.append(row("NORMAL/v.png", "NORMAL", "validation"))
    write_manifest(rows)
    paths.DUPLICATES.write_text("first,second,kind,distance,leaks\n")


def row(path: str, label: str, split: str, sha256: str = "", group: str = "") -> ImageRow:
    digest = sha256 or path
    bits = hashlib.sha256(digest.encode()).hexdigest() + "0" * 80
    return ImageRow(path, label, split, digest, bits, group, "", -1, "PNG", "RGB", 8, 8, 100)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model for each test, because the tests share the stores."""
    return f"gate-{abs(hash(request.node.name))}"


@functools.cache
def settings(name: str, *overrides: str) -> Config:
    return compose.config_of(f"tracking.registered_model={name}", *overrides)


def evaluated(
    name: str,
    limit: float,
    shortcuts: dict[str, str] | None = None,
    scale: tuple[float, float] | None = None,
) -> str:
    """Register a model that predicts positive above the brightness `limit`, as evaluate does."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.layers[-1].set_weights([np.full((3, 1), 30.0), np.array([-90.0 * limit])])
    folder = Path("model")
    chosen = classifier.Metadata(["NORMAL", "COVID19"], 0.5, 1.0, 8, 8, 3, 2, scale=scale)
    folder.mkdir(exist_ok=True)
    model.save(folder / classifier.WEIGHTS)
    classifier.write_metadata(folder, chosen)  # after the weights, whose digest goes with them
    rows = read_manifest()
    np.save("images.npy", np.zeros((len(rows), 8, 8, 3), np.uint8))
    dataset = PreparedDataset(
        rows,
        Path("images.npy"),
        np.array([]),
        chosen.classes,
        manifest_digest(),
        {"source": "test"},
    )
    bright = [int(Path(r.path).stem) / 255 > limit for r in rows if r.split == "test"]
    labels = [r.label == "COVID19" for r in rows if r.split == "test"]
    right = np.equal(bright, labels)
    recalls = [right[np.equal(labels, positive)].mean() for positive in (False, True)]
    with runs.open_run(runs.open_training(settings(name), dataset, name, "key")):
        runs.log_files([paths.MANIFEST], "data")
        version = models.register(settings(name), dataset, folder, {})
        ledger.mark_evaluation(version, digest_of_test_set(rows))
        metrics = {"accuracy": right.mean(), "sensitivity": np.array(bright)[labels].mean()}
    record = {
        "name": name, "version": version.version, "run_id": version.run_id,
        "manifest_digest": manifest_digest(), "classes": chosen.classes,
        "shortcuts": shortcuts or {},
        "intervals": {
            "balanced_accuracy": {"value": np.mean(recalls), "low": 0.75, "high": 1.0}
        },
        "chance": {"balanced_accuracy": 0.5},
        "duplicate_distance": 58,
        "recalls": dict(zip(chosen.classes, recalls, strict=True)),
        "findings": {"dark": {"train": 2}, "blurred": {"test": 3}},
        "recall_intervals": {
            label: {"value": recall, "low": recall - 0.1, "high": recall + 0.1}
            for label, recall in zip(chosen.classes, recalls, strict=True)
        },
    }  # fmt: skip
    paths.EVALUATE.mkdir(parents=True, exist_ok=True)
    (paths.EVALUATE / paths.METRICS).write_text(json.dumps(metrics))
    paths.EVALUATED.write_text(json.dumps(record))
    return version.version


def decide(name: str, *overrides: str) -> dict:
    promote(settings(name, *overrides))
    return json.loads(paths.DECISION.read_text())


def rollback(name: str, code: int = 0) -> str:
    """Run the command `rollback`, which reads params.yaml; return its output."""
    Path("params.yaml").write_text(OmegaConf.to_yaml(settings(name).model_dump()))
    store = os.environ["MLFLOW_TRACKING_URI"]
    here = Project(Path.cwd())
    source = str(ROOT / "src")
    return here.command("rollback", code=code, PYTHONPATH=source, MLFLOW_TRACKING_URI=store)


def champion(registry: mlflow.MlflowClient, name: str) -> str:
    return str(registry.get_model_version_by_alias(name, "champion").version)


def test_a_worse_version_is_refused_a_better_one_promoted_and_rollback_restores(
    registry: mlflow.MlflowClient, name: str
):
    first = evaluated(name, 0.64)  # the least bright positive images are predicted negative
    assert decide(name, *LENIENT)["champion"]
    assert champion(registry, name) == first

    assert decide(name, *LENIENT)["champion"]  # again
    assert champion(registry, name) == first
    assert registry.get_model_version(name, first).tags["champion_before"] == ""

    worse = evaluated(name, 0.66)
    decision = decide(name, *LENIENT)
    assert "is not above 0" in decision["reasons"][0]
    assert decision["comparison"]["challenger"] < decision["comparison"]["champion"]
    assert champion(registry, name) == first
    challenger = registry.get_model_version_by_alias(name, "challenger")
    assert str(challenger.version) == worse

    evaluated(name, 0.64)  # the same model once more
    assert decide(name, *LENIENT)["comparison"]["difference_high"] == 0
    assert champion(registry, name) == first

    better = evaluated(name, 0.5)
    decision = decide(name)
    assert decision["champion"]
    assert 0 < decision["comparison"]["difference_low"] < 0.1375
    assert decision["comparison"]["differing"] == 11
    found = decision["ledger"]
    assert (found["look"], found["looks"], found["decisions"]) == (4, 4, 4)
    assert found["level"] == pytest.approx(1 - 0.05 / 20)
    assert champion(registry, name) == better
    assert "challenger" not in registry.get_registered_model(name).aliases

    rollback(name)
    assert champion(registry, name) == first
    assert "rolled back" in decide(name)["reasons"][0]  # a repeat does not promote it again
    assert champion(registry, name) == first
    assert "there is no earlier one" in rollback(name, code=1)


@pytest.mark.slow
def test_of_two_promotions_at_once_the_second_meets_the_new_champion(
    served_registry: mlflow.MlflowClient, name: str, empty_project: Path
):
    evaluated(name, 0.64)
    decide(name, *LENIENT)
    clones = []
    for number in range(2):
        evaluated(name, 0.5)  # equally good, and better than the champion
        clones.append(Path(shutil.copytree(empty_project, f"{empty_project}-{number}")))
        (clones[-1] / "params.yaml").write_text(
            OmegaConf.to_yaml(settings(name, *LENIENT).model_dump())
        )
    command = [sys.executable, "-m", "image_classifier", "promote"]
    processes = [subprocess.Popen(command, cwd=clone) for clone in clones]
    assert [process.wait() for process in processes] == [0, 0]
    decisions = [json.loads((clone / paths.DECISION).read_text()) for clone in clones]
    assert sorted(decision["champion"] for decision in decisions) == [False, True]
    (won,) = [decision["version"] for decision in decisions if decision["champion"]]
    assert champion(served_registry, name) == won
    assert served_registry.get_model_version(name, won).tags["champion_before"] == "1"


def test_a_champion_that_changed_since_the_comparison_is_not_replaced(
    registry: mlflow.MlflowClient, name: str
):
    evaluated(name, 0.6)
    decide(name)
    with pytest.raises(InputError, match="has become champion since"):
        aliases.make_champion(models.get_version(name, evaluated(name, 0.5)), None)
    assert champion(registry, name) == "1"


def test_minimums_come_first_sensitivity_before_accuracy(registry: mlflow.MlflowClient, name: str):
    evaluated(name, 0.8)
    decision = decide(name)
    assert not decision["champion"]
    assert [" ".join(reason.split()[:2]) for reason in decision["reasons"]] == [
        "test sensitivity",
        "test accuracy",
    ]
    with pytest.raises(mlflow.MlflowException):
        champion(registry, name)


def test_a_suspected_shortcut_is_refused_unless_accepted_by_name(
    registry: mlflow.MlflowClient, name: str
):
    version = evaluated(name, 0.5, shortcuts={"metadata": "the files", "border": "the border"})
    for overrides in ([], ["promotion.accept_shortcuts=[metadata]"]):
        (reason,) = decide(name, *overrides)["reasons"]
        assert "of the probe metadata and of the probe border is suspiciously high" in reason
        assert "promotion.accept_shortcuts=[metadata,border]" in reason
    assert decide(name, "promotion.accept_shortcuts=[metadata,border]")["champion"]
    assert champion(registry, name) == version


def test_a_suspicious_test_of_the_model_is_refused_with_what_it_found(
    registry: mlflow.MlflowClient, name: str
):
    evaluated(name, 0.5, shortcuts={"border": "the border", "other_border": "With the border, 0.4"})
    (reason,) = decide(name, "promotion.accept_shortcuts=[border]")["reasons"]
    assert "of the probe border is suspiciously high, compared with the model's; test" in reason
    assert "; test other_border: With the border, 0.4 (see the model card)" in reason
    assert "promotion.accept_shortcuts=[border,other_border]" in reason
    assert decide(name, "promotion.accept_shortcuts=[border,other_border]")["champion"]


def test_a_growing_dataset_compares_on_what_the_champion_has_not_seen(
    served_registry: mlflow.MlflowClient, name: str, capsys: pytest.CaptureFixture[str]
):
    """The champion has learnt from ten images that are in the test split now."""
    rows = read_manifest()
    write_manifest([*(replace(old, split="train") for old in rows[:-1:8]), *rows[1::2], rows[-1]])
    first = evaluated(name, 0.6)
    assert decide(name)["champion"]

    write_manifest(sorted([*rows[:-1:8], *rows[1::2], rows[-1]], key=lambda row: row.path))
    evaluated(name, 0.61)  # not better
    decision = decide(name)
    assert decision["comparison"]["images"] == 40
    assert decision["comparison"]["left_out"] == 10
    assert "on the same 40 test images" in decision["reasons"][0]
    assert champion(served_registry, name) == first
    assert (
        "on 40 test images; 10 others are left out, because the champion has seen them"
        in capsys.readouterr().out
    )


def test_more_training_images_with_the_same_test_images_compare_on_all(
    registry: mlflow.MlflowClient, name: str
):
    evaluated(name, 0.6)
    assert decide(name)["champion"]
    write_manifest([*read_manifest(), row("NORMAL/new.png", "NORMAL", "train")])
    better = evaluated(name, 0.5)
    decision = decide(name)
    assert (decision["comparison"]["images"], decision["comparison"]["left_out"]) == (80, 0)
    assert champion(registry, name) == better


def test_near_duplicates_and_groups_of_what_the_champion_has_seen_are_left_out(
    registry: mlflow.MlflowClient, name: str
):
    rows = read_manifest()
    rows[1] = replace(rows[1], group="patient 1")
    rows[2] = replace(rows[2], group="patient 1")
    write_manifest(rows)
    gone = replace(rows[3], path="NORMAL/old.png", sha256="old")  # its copy is in the test split
    seen = [replace(rows[0], split="train"), replace(rows[1], split="train"), gone]
    write_manifest([replace(seen[0]), seen[1], replace(gone, split="train"), *rows[5:]])
    evaluated(name, 0.6)
    assert decide(name)["champion"]
    write_manifest(rows)
    pairs = f"{rows[0].path},{rows[4].path},near duplicate,3,no"
    paths.DUPLICATES.write_text(f"first,second,kind,distance,leaks\n{pairs}\n")
    evaluated(name, 0.5)
    # the image itself and its duplicate, both of the patient, and the copy of the one that is gone
    assert decide(name)["comparison"]["left_out"] == 5


def test_too_few_unseen_images_are_refused_with_their_number(
    registry: mlflow.MlflowClient, name: str
):
    rows = read_manifest()
    few = rows[35:40] + rows[75:]
    write_manifest([*(replace(old, split="train") for old in rows if old not in few), *few])
    first = evaluated(name, 0.57)
    assert decide(name)["champion"]
    write_manifest(rows)
    evaluated(name, 0.5)
    (reason,) = decide(name)["reasons"]
    assert "has seen 70 of the 80 test images, or near duplicates of them. 10 are left" in reason
    assert "10 are left; 20 are needed" in reason
    assert champion(registry, name) == first


def test_a_champion_whose_images_are_not_known_is_not_replaced(
    registry: mlflow.MlflowClient, name: str
):
    first = evaluated(name, 0.6)
    decide(name)
    run = registry.get_model_version(name, first).run_id
    folder = registry.get_run(run).info.artifact_uri
    get_artifact_repository(folder).delete_artifacts("data/manifest.csv")
    write_manifest(read_manifest()[1:])
    evaluated(name, 0.5)
    (reason,) = decide(name)["reasons"]
    assert "the images that it was trained with are not known" in reason
    assert champion(registry, name) == first


def delete_files(registry: mlflow.MlflowClient, name: str, version: str) -> None:
    place = registry.get_model_version_download_uri(name, version)
    get_artifact_repository(place).delete_artifacts()


def test_a_champion_whose_files_were_deleted_is_not_replaced_uncompared(
    registry: mlflow.MlflowClient, name: str, capsys: pytest.CaptureFixture
):
    first = evaluated(name, 0.6)
    decide(name)
    delete_files(registry, name, first)
    second = evaluated(name, 0.5)
    with pytest.raises(InputError, match=r"/1 were deleted from .* without a champion: ") as error:
        decide(name)
    assert champion(registry, name) == first
    command = re.findall("`([^`]+)`", str(error.value))[-1]  # it decides
    subprocess.run(["bash", "-c", command], check=True)
    assert decide(name)["champion"]
    assert champion(registry, name) == second
    said = f"{name} had no champion to compare it with."
    assert said in capsys.readouterr().out
    assert decide(name)["champion"]
    assert said not in capsys.readouterr().out  # it is the champion


def test_an_alias_without_its_version_is_not_an_absent_champion(
    registry: mlflow.MlflowClient, name: str
):
    evaluated(name, 0.6)
    decide(name)
    evaluated(name, 0.5)
    # MLflow itself deletes an alias with its version
    with sqlite3.connect(registry.tracking_uri.removeprefix("sqlite:///")) as opened:
        opened.execute("UPDATE registered_model_aliases SET version = 9 WHERE name = ?", [name])
    with pytest.raises(InputError, match=r"Version 9 of .* or was deleted") as error:
        decide(name)
    assert "names a version that no longer exists" in str(error.value)
    output = rollback(name, code=1)
    command = re.findall("`([^`]+)`", output)[-1]
    assert "Traceback" not in output
    subprocess.run(["bash", "-c", command], check=True)
    assert decide(name)["champion"]


def test_a_refusal_is_not_an_absent_champion(name: str, monkeypatch: pytest.MonkeyPatch):
    class Forbidden(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forbidden) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(MlflowException, match="403"):
            aliases.current_champion(name)
        server.shutdown()


def test_the_version_that_was_evaluated_must_be_there_with_its_files_and_its_run(
    registry: mlflow.MlflowClient, name: str
):
    first = evaluated(name, 0.6)
    record = paths.EVALUATED.read_text()
    run_id = registry.get_model_version(name, first).run_id
    registry.delete_run(run_id)
    with pytest.raises(InputError, match=f"`mlflow runs restore --run-id {run_id}`"):
        decide(name)
    registry.restore_run(run_id)
    second = evaluated(name, 0.5)
    delete_files(registry, name, second)
    with pytest.raises(InputError, match=r"/2 were deleted .* `dvc repro -f -s evaluate`"):
        decide(name)
    registry.delete_model_version(name, first)
    paths.EVALUATED.write_text(record)
    with pytest.raises(InputError, match=r"Version 1 of \S+ was deleted\. .* exist: 2\. "):
        decide(name)
    registry.delete_registered_model(name)
    evaluated(name, 0.5)  # version 1 again, of another run
    paths.EVALUATED.write_text(record)
    with pytest.raises(InputError, match="is not the version that was evaluated"):
        decide(name)
    assert not registry.get_registered_model(name).aliases


def test_rollback_to_a_deleted_version_changes_nothing(registry: mlflow.MlflowClient, name: str):
    first = evaluated(name, 0.64)
    decide(name, *LENIENT)
    second = evaluated(name, 0.5)
    decide(name)
    registry.delete_model_version(name, first)
    output = rollback(name, code=1)
    assert f"models:/{name}/2 is still champion. Version 1 of {name} was deleted." in output
    assert champion(registry, name) == second


def test_a_champion_that_cannot_read_the_images_is_not_replaced_and_the_reason_is_said(
    registry: mlflow.MlflowClient, name: str
):
    first = evaluated(name, 0.6)
    decide(name)
    for path in paths.RAW.rglob("*.png"):
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
        Image.fromarray(values).save(path)
    evaluated(name, 0.5, scale=(0.0, 65535.0))
    (reason,) = decide(name)["reasons"]
    assert "cannot be compared with the champion, version 1: it cannot read" in reason
    assert "no training image had" in reason
    assert champion(registry, name) == first


def test_a_version_must_be_above_chance_and_recognise_every_class(
    registry: mlflow.MlflowClient, name: str
):
    evaluated(name, 0.57)
    record = json.loads(paths.EVALUATED.read_text())
    for low in (0.5, None, float("nan")):
        record["intervals"]["balanced_accuracy"]["low"] = low
        paths.EVALUATED.write_text(json.dumps(record))
        (reason,) = decide(name)["reasons"]
        assert "balanced_accuracy" in reason
        assert ("not above chance, 0.5000" in reason) == (low == 0.5)
    record["intervals"]["balanced_accuracy"]["low"] = 0.75
    record["recalls"] = {"NORMAL": 0.2, "COVID19": None}
    record["recall_intervals"] = {"NORMAL": {"value": 0.2, "low": 0.15, "high": 0.3}}
    paths.EVALUATED.write_text(json.dumps(record))
    (reason,) = decide(name)["reasons"]
    assert "minimum_recall=0.25: NORMAL 0.2000 (95% interval 0.1500 to 0.3000: about" in reason
    assert (
        "more NORMAL images in the test set would decide it, if the values stay), COVID19 missing"
        in reason
    )
    with pytest.raises(mlflow.MlflowException):
        champion(registry, name)


def test_a_better_version_that_differs_on_too_few_images_is_not_certainly_better(
    registry: mlflow.MlflowClient, name: str
):
    first = evaluated(name, 0.55)  # wrong on the three least bright positive images
    decide(name)
    evaluated(name, 0.5)
    decision = decide(name)
    assert decision["comparison"]["differing"] == 3
    (reason,) = decision["reasons"]
    assert "99.17% interval (look 2 at this test set)" in reason
    assert "more test images of all classes would decide it" in reason
    assert champion(registry, name) == first


@pytest.mark.parametrize(
    ("low", "high", "label", "expected"),
    [
        # half the width is 0.08 and the distance 0.05: (1.6 * 2.8 / 1.96) ** 2 = 5.22 times 40
        (0.67, 0.83, "COVID19", "about 170 more COVID19 images in the test set would decide it"),
        (0.67, 0.83, "", "about 340 more test images of all classes would decide it"),
        (0.72, 0.78, "", "more test images would not help"),
        (None, None, "", "it has no 95% interval"),
    ],
)
def test_a_refusal_by_a_minimum_says_how_many_images_would_decide(
    low: float | None, high: float | None, label: str, expected: str
):
    test = [row(f"{i}.png", name, "test") for name in BRIGHTNESS for i in range(40)]
    interval = {"low": low, "high": high}
    assert expected in whether_below(0.75, interval, 0.8, test, label)
    recalls = {"NORMAL": 0.9, "COVID19": 0.75}
    assert not unrecognised_classes(recalls, {"COVID19": interval}, test, 0.7)
    if label:
        (reason,) = unrecognised_classes(recalls, {"COVID19": interval}, test, 0.8)
        assert expected in reason
        minimums = settings("x", "promotion.minimum_accuracy=0").promotion
        metrics = {"accuracy": 0.82, "sensitivity": 0.75}
        intervals = {"sensitivity": interval}
        (reason,) = below_minimums(metrics, intervals, test, ["NORMAL", "COVID19"], minimums)
        assert expected in reason


def test_an_evaluation_of_an_older_manifest_is_refused(registry: mlflow.MlflowClient, name: str):
    evaluated(name, 0.5)
    write_manifest(read_manifest()[1:])
    with pytest.raises(InputError, match="changed after evaluate"):
        decide(name)


def test_the_decision_is_a_tag_and_a_file_of_the_run(registry: mlflow.MlflowClient, name: str):
    version = registry.get_model_version(name, evaluated(name, 0.8))
    decide(name)
    assert (
        "below promotion.minimum_"
        in registry.get_model_version(name, version.version).tags["promotion"]
    )
    assert "promotion.minimum_" in registry.get_run(version.run_id).data.tags["promotion"]
    files = [file.path for file in registry.list_artifacts(version.run_id, "promotion")]
    assert files == ["promotion/decision.json"]


def test_a_champion_below_a_new_minimum_stays_champion_with_a_message(
    registry: mlflow.MlflowClient, name: str, capsys: pytest.CaptureFixture[str]
):
    version = evaluated(name, 0.57)
    assert decide(name)["champion"]
    decision = decide(name, "promotion.minimum_accuracy=0.999")
    assert decision["champion"]
    assert "promotion.minimum_accuracy=0.999" in decision["reasons"][0]
    assert "is still champion" in capsys.readouterr().out
    assert champion(registry, name) == version


@pytest.mark.parametrize("metrics", [{"accuracy": 1.0}, {"accuracy": 1.0, "sensitivity": np.nan}])
def test_a_metric_that_is_missing_or_nan_never_passes_its_minimum(metrics: dict):
    minimums = settings("x", "promotion.minimum_sensitivity=0").promotion
    (reason,) = below_minimums(metrics, {}, [], ["a", "b"], minimums)
    assert "promotion.minimum_sensitivity=0" in reason
    three = ["a", "b", "c"]  # sensitivity is for two classes only
    assert not below_minimums(metrics, {}, [], three, minimums)


def test_the_gate_reads_what_evaluate_wrote_and_not_tags(registry: mlflow.MlflowClient, name: str):
    version = evaluated(name, 0.8)
    for tag in ("test_accuracy", "test_sensitivity"):
        registry.set_model_version_tag(name, version, tag, "1.0")
    assert not decide(name)["champion"]


def test_without_a_champion_there_is_nothing_to_roll_back(registry: mlflow.MlflowClient, name: str):
    assert "has no champion to roll back from" in rollback(name, code=1)
