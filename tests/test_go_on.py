"""Trainings that go on from another one: more epochs, and the weights of a registered version."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run

from conftest import Project, copy_of, small_backbone
from image_classifier.classifier import Classifier, Metadata
from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow, manifest_digest, write_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages import train
from image_classifier.sweeps import job
from image_classifier.sweeps.median_stopping import MedianStopping
from image_classifier.tracking import runs, start_from, verified_models
from image_classifier.training import (
    architectures,
    finished,
    first_weights,
    fit,
    identity,
    phases,
    resume,
)
from image_classifier.training.checkpoint import Checkpoint
from image_classifier.training.progress import Progress
from test_training import Kill, Killed, tiny

NOT_STORED = "tracking.register_models=none"  # saves time
CONSTANT = ("optimizer=adam_constant", "optimizer.average=0.5", NOT_STORED)
SPLITS = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project's folder, with an MLflow store of its own."""
    folder = tmp_path_factory.mktemp("go_on")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield folder


def prepared(*classes: str, splits: Sequence[str] = SPLITS) -> PreparedDataset:
    """Prepare images of 20 x 24 pixels: each class has another brightness, with some noise."""
    generator, rows, pixels = np.random.default_rng(0), [], []
    for name in classes:
        brightness = 70 * "abcd".index(name)
        for number, split in enumerate(splits):
            file = f"{name}/{number}.png"
            bits = hashlib.sha256(file.encode()).hexdigest() + "0" * 80
            rows.append(
                ImageRow(file, name, split, file, bits, "", "", -1, "PNG", "RGB", 24, 20, 1000)
            )
            pixels.append(generator.integers(0, 40, (20, 24, 3)) + brightness)
    write_manifest(rows)
    paths.DUPLICATES.write_text("first,second,kind,distance,leaks\n")
    file = Path(f"images-{''.join(classes)}.npy")
    np.save(file, np.array(pixels, np.uint8))
    labels = np.array([classes.index(row.label) for row in rows])
    return PreparedDataset(rows, file, labels, list(classes), manifest_digest(), {})


def trained(config: Config, dataset: PreparedDataset, *stoppers: object) -> Run:
    """Train and register a model as a single run does; return its MLflow run, the latest."""
    with resume.claim(config, dataset) as state:
        job.train_and_register(config, dataset, Path("output"), state, [], stoppers)
    return latest_run()


def latest_run() -> Run:
    """Return the MLflow run that began last."""
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)
    return run


@pytest.fixture(scope="module")
def champion(folder: Path) -> Run:
    """The run of a version of two classes, which has the alias champion."""
    run = trained(tiny(), prepared("a", "b"))
    name, version = run.data.tags["registered_version"].removeprefix("models:/").split("/")
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", version)
    return run


def history(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return the values of each metric of an epoch."""
    client = mlflow.MlflowClient()
    names = [name for name in run.data.metrics if re.match("train/|val/|best_val", name)]
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(
            run.info.run_id, name
        ))
        for name in names
    }  # fmt: skip


def test_more_epochs_continue_and_end_as_if_asked_for_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = prepared("a", "b")
    first = trained(tiny(*CONSTANT), dataset)
    capsys.readouterr()
    four = tiny(*CONSTANT, "training.epochs=4")
    state = Path(
        "runs/unfinished", identity.training_key(identity.job_key(four, dataset), four.training)
    )
    with pytest.raises(Killed):
        trained(four, dataset, Kill(state, 3))
    output = capsys.readouterr().out
    assert output.count(f"Continuing MLflow run {first.info.run_id} after epoch 2.") == 1
    assert "Epoch 3/4" in output
    assert "Epoch 2/4" not in output
    more = trained(four, dataset)
    output = capsys.readouterr().out
    assert "Continuing an earlier attempt after epoch 3." in output
    assert "Epoch 3/4" not in output
    assert more.data.tags["continued_from"] == first.info.run_id
    # now no training with fewer epochs is known: it begins at epoch 1
    at_once = trained(four, dataset)
    assert "Epoch 1/4" in capsys.readouterr().out
    assert "continued_from" not in at_once.data.tags
    assert more.data.tags["weights_sha256"] == at_once.data.tags["weights_sha256"]
    assert more.data.tags["weights_sha256"] != first.data.tags["weights_sha256"]
    assert history(more) == history(at_once)
    assert [step for step, _ in history(more)["val/loss"]] == [1, 2, 3, 4]


def test_a_cosine_schedule_begins_at_epoch_1_and_a_line_says_why(
    folder: Path, champion: Run, capsys: pytest.CaptureFixture[str]
):
    again = trained(tiny(NOT_STORED, "training.epochs=3"), prepared("a", "b"))
    output = capsys.readouterr().out
    line = (
        f"MLflow run {champion.info.run_id} is the same training with 2 epochs, but this one begins"
    )
    assert output.count(line) == 1
    assert "with optimizer.schedule=cosine the learning rate of every epoch depends on" in output
    assert "Epoch 1/3" in output
    assert "continued_from" not in again.data.tags


class Stopping(MedianStopping):
    """Ends a training after its second epoch, as a sweep does."""

    def __init__(self) -> None:
        super().__init__([[-1.0]] * 4, "val_loss")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        super().on_epoch_end(epoch + 1, logs)


@pytest.mark.slow
def test_a_training_that_a_sweep_stopped_is_not_continued(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = prepared("a", "b")
    settings = (*CONSTANT, "training.seed=1")
    trained(tiny(*settings, "training.epochs=3"), dataset, Stopping())
    assert "Stopped after epoch 3: worse than the median" in capsys.readouterr().out
    trained(tiny(*settings, "training.epochs=4"), dataset)
    output = capsys.readouterr().out
    assert "begins at epoch 1: the sweep stopped that training early" in output
    assert "Epoch 1/4" in output


def test_a_training_that_patience_ended_needs_no_more_epochs(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = prepared("a", "b")
    settings = (
        *CONSTANT, "training.monitor=val_accuracy", "optimizer.learning_rate=1e-9",
        "training.patience=1",
    )  # fmt: skip
    first = trained(tiny(*settings, "training.epochs=10"), dataset)
    more = trained(tiny(*settings, "training.epochs=20"), dataset)
    line = f"at epoch 2 of MLflow run {first.info.run_id}: nothing to train"
    assert line in capsys.readouterr().out
    assert history(more) == history(first)


def test_the_oldest_epochs_are_removed_when_all_are_too_large(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finished, "LARGEST", 2500)
    for number, name in enumerate("abc"):
        state = tmp_path / name
        state.mkdir()
        (state / "epoch-000001.npz").write_bytes(b"1" * 1000)
        finished.write(state / finished.RECORD, finished.Finished(name, "run", 1, ""))
        os.utime(state / finished.RECORD, (number, number))
        finished.keep(state)
    kept = tmp_path / "runs/finished"
    assert sorted(path.name for path in kept.glob("*/")) == ["b", "c"]
    assert (state / "epoch-000001.npz").is_file()  # only `finish` removes the state
    monkeypatch.setattr(finished, "LARGEST", 10)
    finished.keep(state)
    assert [path.name for path in kept.glob("*/")] == ["c"]


def starting(champion: Run, *overrides: str) -> Config:
    """Return settings that start from the champion, and hardly change its weights."""
    name = champion.data.tags["registered_version"].split("/")[1]
    return tiny(
        f"training.start_from=models:/{name}@champion", "optimizer=adam_constant",
        "optimizer.learning_rate=1e-12", *overrides,
    )  # fmt: skip


def started(config: Config, dataset: PreparedDataset) -> Run:
    """Train and register as `image-classifier train` does."""
    train.check(config, dataset)
    config, start = train.resolve_start(config, dataset)
    with resume.claim(config, dataset, start.weights_sha256 if start else "") as state:
        job.train_and_register(config, dataset, Path("output"), state, [], start=start)
    return latest_run()


def test_a_third_class_is_added_to_what_the_champion_has_learnt(folder: Path, champion: Run):
    run = started(starting(champion), prepared("a", "b", "c"))
    uri = champion.data.tags["registered_version"]
    old, _ = verified_models.load_classifier(uri)
    new, version = verified_models.load_classifier(run.data.tags["registered_version"])
    (w, b), (kernel, bias) = (c.model.get_layer("probability").get_weights() for c in (old, new))
    assert kernel.shape[1] == 3
    # a sigmoid is a softmax in which the first class has the logit 0
    assert np.allclose(kernel[:, 0], 0, atol=1e-9)
    assert np.array_equal(kernel[:, 1], w[:, 0])
    assert bias[1] == b[0]
    assert kernel[:, 2].std() > 0.1
    convolutions = [
        [layer.kernel.numpy() for layer in c.model.layers if "conv2d" in layer.name]
        for c in (old, new)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*convolutions, strict=True))

    lineage = {
        "start_from": uri,
        "start_from.run_id": champion.info.run_id,
        "start_from.weights_sha256": champion.data.tags["weights_sha256"],
    }
    assert run.data.tags.items() >= lineage.items()
    assert version.tags.items() >= lineage.items()
    assert run.data.params["training.start_from"] == uri
    file = mlflow.MlflowClient().download_artifacts(run.info.run_id, "config/params.yaml")
    assert f"start_from: {uri}\n" in Path(file).read_text()


def test_the_start_is_part_of_what_identifies_a_training(folder: Path, champion: Run):
    dataset = prepared("a", "b", "c")
    by_alias, start = train.resolve_start(starting(champion), dataset)
    by_run = tiny(f"training.start_from={champion.info.run_id}")
    assert train.resolve_start(by_run, dataset)[1] == start
    assert by_alias.training.start_from == champion.data.tags["registered_version"]
    assert start.weights_sha256 == champion.data.tags["weights_sha256"]
    keys = {identity.job_key(by_alias, dataset, digest) for digest in (start.weights_sha256, "0")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.filters=[4,16]"], r"the layer conv2d\w* has weights of the shapes \(3, 3, 4, 8\)"),
        (["model.filters=[4,8,8]"], r"the layer \w+ has weights of the shapes .* in that version"),
        (["image.fit=pad"], r"image\.fit=squash, but image\.fit is pad"),
    ],
)
def test_a_version_with_another_form_is_refused_before_a_run_is_opened(
    folder: Path, champion: Run, overrides: list[str], message: str
):
    dataset, before = prepared("a", "b"), latest_run().info.run_id
    with pytest.raises(InputError, match=message):
        started(starting(champion, *overrides), dataset)
    assert latest_run().info.run_id == before


def test_a_version_whose_files_changed_is_refused(folder: Path, champion: Run):
    client = mlflow.MlflowClient()
    name, number = champion.data.tags["registered_version"].removeprefix("models:/").split("/")
    place = Path(unquote(urlsplit(client.get_model_version_download_uri(name, number)).path))
    (file,) = place.rglob("classifier.json")
    text = file.read_text()
    file.write_text(text + "\n")
    try:
        with pytest.raises(InputError, match="are not what was registered"):
            started(starting(champion), prepared("a", "b"))
    finally:
        file.write_text(text)


def test_a_version_whose_run_has_other_weights_is_refused(folder: Path, champion: Run):
    start = start_from.Start(champion.data.tags["registered_version"], champion.info.run_id, "0")
    with pytest.raises(InputError, match=f"with SHA-256 {champion.data.tags['weights_sha256']}"):
        start_from.load(start)


def test_a_version_that_has_seen_test_images_is_refused(folder: Path, champion: Run):
    dataset = prepared("a", "b", splits=SPLITS[::-1])
    with pytest.raises(InputError, match=r"on 8 of the 8 test images.*split\.seed"):
        train.resolve_start(starting(champion), dataset)
    # a version that has not seen them itself, but started from that one
    other = prepared("c", "d")
    tags = {runs.STARTED_FROM: champion.info.run_id}
    child = runs.open_training(tiny(), other, "child", "", (), "", tags)
    with runs.open_run(child):
        runs.log_files([paths.MANIFEST], "data")
    dataset = prepared("a", "b", splits=SPLITS[::-1])
    with pytest.raises(InputError, match=r"or one that it started from.*on 8 of the 8"):
        start_from.refuse_seen_test_images(start_from.Start("", child, ""), dataset, 58)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("models:/nothing/1", "Name a version that sqlite"),
        ("models:/nothing@champion", "Name a version that sqlite"),
        ("0" * 32, "is not in sqlite:"),
        ("unregistered", "this MLflow run has no registered version"),
    ],
)
def test_an_address_that_names_no_version_is_refused(
    folder: Path, champion: Run, address: str, message: str
):
    dataset = prepared("a", "b")
    if address == "unregistered":
        address = runs.open_training(tiny(), dataset, "unregistered", "")
    with pytest.raises(InputError, match=message):
        train.resolve_start(tiny(f"training.start_from={address}"), dataset)


@pytest.mark.parametrize(
    ("known", "classes"),
    [("ab", "ba"), ("ab", "abc"), ("ab", "cba"), ("abc", "ab"), ("abc", "ca"), ("abc", "bcad")],
)
def test_known_classes_keep_their_ratio(known: str, classes: str):
    """The ratio of the probabilities of two classes that both outputs have."""
    generator = np.random.default_rng(0)

    def random(names: str) -> list[np.ndarray]:
        units = 1 if len(names) == 2 else len(names)
        shapes = [(5, units), (units,)]
        return [generator.normal(size=shape).astype(np.float32) for shape in shapes]

    features = generator.normal(size=5)

    def log_ratio(weights: list[np.ndarray], names: str) -> float:
        logits = features @ weights[0] + weights[1]
        if len(names) == 2:
            logits = np.array([0, logits[0]])
        first, second = sorted(set(known) & set(classes))[:2]
        return logits[names.index(second)] - logits[names.index(first)]

    stored, new = random(known), random(classes)
    out = first_weights.output_weights(new, list(classes), stored, list(known))
    assert [array.shape for array in out] == [array.shape for array in new]
    assert log_ratio(out, classes) == pytest.approx(log_ratio(stored, known), rel=1e-5)
    for index, name in enumerate(classes):
        if name not in known:
            assert np.array_equal(out[0][:, index], new[0][:, index])


def test_a_pretrained_model_is_only_fine_tuned(folder: Path, tmp_path: Path):
    small_backbone(tmp_path / "backbone.keras", 20, 24)
    overrides = (
        "model=pretrained", f"model.backbone={tmp_path / 'backbone.keras'}", "image.height=20",
        "image.width=24", "training.fine_tune_epochs=2", "training.start_from=models:/x/1",
    )  # fmt: skip
    dataset = prepared("a", "b", "c")
    with pytest.raises(InputError, match=r"set training\.fine_tune=top"):
        train.check(compose.config_of(*overrides, "training.fine_tune=none"), dataset)
    config = compose.config_of(*overrides)
    (phase,) = phases.phases(config)
    assert phase == phases.Phase("fine-tuning", 0, 2)
    learnt = architectures.build(config.model, config.image.shape, 2)
    learnt.set_weights([weight * 1.25 for weight in learnt.get_weights()])
    known = Classifier(learnt, Metadata(["a", "b"], 0.5, 1, 20, 24, 3, 2, config.image.fit))
    first = first_weights.first_weights(config, dataset, known)
    progress = Progress()
    model = fit.model_of(config, dataset, phase, tmp_path, progress, first)
    assert all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(model.get_weights()[:-2], learnt.get_weights()[:-2], strict=True)
    )
    checkpoint = Checkpoint(tmp_path, config.training, progress, phase=phase)
    fit.fit(model, dataset, config, phase, progress, [checkpoint])
    assert progress.epochs == 2
    kept = fit.best_model(config, dataset, tmp_path, progress)
    best = progress.best(config.training)[1]
    rows = dataset.indices("validation")
    outputs = kept.predict(dataset.images[rows], verbose=0)
    losses = -np.log(outputs[np.arange(len(rows)), dataset.labels[rows]])
    assert losses.mean() == pytest.approx(best, rel=1e-4)


def test_the_pipeline_starts_from_its_champion(project: Project, tmp_path: Path):
    copy = copy_of(project, tmp_path / "project")
    assert list(copy.folder.glob("runs/finished/*/finished.json"))  # of the first training
    params = copy.folder / "params.yaml"
    model = compose.config_of().tracking.registered_model
    old, new = "start_from: null", f"start_from: models:/{model}@champion"
    params.write_text(params.read_text().replace(old, new))
    copy.stages("train --stage", "evaluate")
    uri, run = f"models:/{model}/1", copy.read("build/train/run.json")
    assert run["start_from"]["uri"] == uri
    report = copy.read("build/evaluate/report.json")
    assert report["start_from"] == run["start_from"]
    card = (copy.folder / "build/evaluate/model_card.md").read_text()
    assert f"Its training started from the weights of `{model}/1` (MLflow run `" in card
    client = mlflow.MlflowClient(copy.store)
    file = client.download_artifacts(run["run_id"], "config/params.yaml", str(tmp_path))
    assert f"start_from: {uri}\n" in Path(file).read_text()  # what reproduce and adopt read
