"""Trainings that go on from another one: more epochs, and the weights of a registered version."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow, manifest_digest, write_manifest
from image_classifier.project import paths
from image_classifier.sweeps import job
from image_classifier.sweeps.median_stopping import MedianStopping
from image_classifier.training import finished
from test_training import tiny

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
    job.train_and_register(config, dataset, Path("output"), [], stoppers)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)
    return run


def history(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return the values of each metric of an epoch."""
    client = mlflow.MlflowClient()
    names = [name for name in run.data.metrics if re.match("train_(loss|acc)|val_|best_val", name)]
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
    more = trained(tiny(*CONSTANT, "training.epochs=4"), dataset)
    output = capsys.readouterr().out
    assert output.count(f"Continuing MLflow run {first.info.run_id} after epoch 2.") == 1
    assert "Epoch 3/4" in output
    assert "Epoch 2/4" not in output
    assert more.data.tags["continued_from"] == first.info.run_id
    # now no training with fewer epochs is known: it begins at epoch 1
    at_once = trained(tiny(*CONSTANT, "training.epochs=4"), dataset)
    assert "Epoch 1/4" in capsys.readouterr().out
    assert "continued_from" not in at_once.data.tags
    assert more.data.tags["weights_sha256"] == at_once.data.tags["weights_sha256"]
    assert more.data.tags["weights_sha256"] != first.data.tags["weights_sha256"]
    assert history(more) == history(at_once)
    assert [step for step, _ in history(more)["val_loss"]] == [1, 2, 3, 4]


def test_a_cosine_schedule_begins_at_epoch_1_and_a_line_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = prepared("a", "b")
    first = trained(tiny(NOT_STORED), dataset)
    capsys.readouterr()
    again = trained(tiny(NOT_STORED, "training.epochs=3"), dataset)
    output = capsys.readouterr().out
    line = f"MLflow run {first.info.run_id} is the same training with 2 epochs, but this one begins"
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
