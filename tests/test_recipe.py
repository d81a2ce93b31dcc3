"""The recipe of a training: optimizer, loss, metrics, and where each takes effect."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from image_classifier.classifier import Classifier, Metadata
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.training import automatic, batches, fit, phases
from image_classifier.training.compilation import metrics_of
from test_training import Kill, Killed, same_variables, tiny, train


@pytest.fixture
def three_classes(dataset: PreparedDataset) -> PreparedDataset:
    labels = np.array([0] * 14 + [1] * 5 + [2] * 2 + [0, 1, 2] * 3)
    return replace(dataset, labels=labels, classes=["a", "b", "c"])


def kept_outputs(config: Config, dataset: PreparedDataset, folder: Path) -> np.ndarray:
    """Train, and return the outputs of the kept model for the validation images."""
    progress = train(config, dataset, folder)
    model = fit.best_model(config, dataset, folder, progress)
    return model.predict(dataset.images[dataset.indices("validation")], verbose=0)


@pytest.mark.parametrize("model", [pytest.param("compact", marks=pytest.mark.slow), "head factor"])
def test_the_moving_average_is_what_is_validated_and_kept(
    dataset: PreparedDataset, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config = tiny("optimizer.average=0.8", "training.epochs=3", "training.monitor=val_loss")
    if model == "head factor":
        phase = phases.Phase("fine-tuning", 0, 3)
        monkeypatch.setattr(phases, "phases", lambda *arguments: [phase])
        monkeypatch.setattr(fit, "phases", lambda *arguments: [phase])
        chosen = {"fine_tune_head_factor": 3.0, "fine_tune": "all", "fine_tune_epochs": 3}
        config = config.model_copy(update={"training": config.training.model_copy(update=chosen)})
    folder = tmp_path / "whole"
    outputs = kept_outputs(config, dataset, folder)
    progress = train(config, dataset, folder)  # reads the finished training
    labels = dataset.labels[dataset.indices("validation")]
    best = progress.best(config.training)[1]
    assert log_loss(labels, outputs[:, 0].astype(float)) == pytest.approx(best, rel=1e-4)
    with pytest.raises(Killed):
        train(config, dataset, tmp_path / "killed", Kill(tmp_path / "killed", 2))
    again = train(config, dataset, tmp_path / "killed")
    assert again.history == progress.history
    assert same_variables(folder, tmp_path / "killed", 3)


def test_the_average_differs_from_the_last_weights(dataset: PreparedDataset, tmp_path: Path):
    plain = kept_outputs(tiny("training.epochs=1"), dataset, tmp_path / "plain")
    averaged = tiny("training.epochs=1", "optimizer.average=0.8")
    assert not (kept_outputs(averaged, dataset, tmp_path / "averaged") == plain).all()


def test_the_head_learns_faster_than_the_backbone(dataset: PreparedDataset):
    """A step of Adam changes each weight by about its learning rate."""
    config = tiny(
        "training.fine_tune_head_factor=10", "training.fine_tune_epochs=10",
        "training.batch_size=21",
    )  # fmt: skip
    model = fit.compiled_model(config, dataset, phases.Phase("fine-tuning", 0, 10))
    (batch,) = batches.training_batches(dataset, config, range(1))
    model.train_on_batch(*batch)  # the rate of the first step is 0
    before = {weights.path: weights.numpy() for weights in model.trainable_weights}
    rates = [float(optimizer.learning_rate) for optimizer in model.optimizer.optimizers]
    assert max(rates) == pytest.approx(10 * min(rates))
    model.train_on_batch(*batch)
    moved = {w.path: np.abs(w.numpy() - before[w.path]).max() for w in model.trainable_weights}
    of_head = [change for path, change in moved.items() if path.startswith("probability/")]
    others = [change for path, change in moved.items() if not path.startswith("probability/")]
    assert max(of_head) == pytest.approx(max(rates), rel=0.2)
    assert max(others) == pytest.approx(min(rates), rel=0.2)


def test_the_learning_rate_rises_and_then_falls(dataset: PreparedDataset):
    config = tiny(
        "optimizer.learning_rate=0.1", "optimizer.warm_up=0.2", "training.epochs=10",
        "training.batch_size=21",
    )  # fmt: skip
    model = fit.compiled_model(config, dataset, phases.phases(config)[0])
    rates = [float(model.optimizer.learning_rate)]
    for batch in batches.training_batches(dataset, config, range(10)):
        model.train_on_batch(*batch)
        rates.append(float(model.optimizer.learning_rate))
    assert rates[:3] == pytest.approx([0, 0.05, 0.1])
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert rates[10] == pytest.approx(0, abs=1e-6)


def test_gradients_are_clipped_to_their_norm(dataset: PreparedDataset):
    """One step of SGD, whose momentum is 0 at first, moves the weights by the gradient."""
    config = tiny(
        "optimizer.name=sgd", "optimizer.schedule=constant", "optimizer.learning_rate=1",
        "optimizer.clip_norm=0.01", "training.batch_size=21", "model.dropout=0",
    )  # fmt: skip
    model = fit.compiled_model(config, dataset, phases.phases(config)[0])
    before = [weights.numpy() for weights in model.trainable_weights]
    model.train_on_batch(*next(iter(batches.training_batches(dataset, config, range(1)))))
    changes = zip(model.trainable_weights, before, strict=True)
    moved = np.sqrt(sum(((new.numpy() - old) ** 2).sum() for new, old in changes))
    assert moved == pytest.approx(0.019, rel=0.01)  # Nesterov's momentum 0.9 adds to the first step


@pytest.mark.parametrize("classes", [2, 3])
def test_the_metrics_are_those_of_scikit_learn(classes: int):
    generator = np.random.default_rng(classes)
    labels = generator.integers(0, classes, 500)
    outputs = generator.random((500, classes)) + 0.4 * np.eye(classes)[labels]
    outputs = (outputs / outputs.sum(1, keepdims=True)).astype(np.float32)
    targets = np.eye(classes)[labels]
    if classes == 2:
        outputs, targets = outputs[:, 1:], targets[:, 1:]
        predicted = outputs[:, 0] >= 0.5
        auc, f1 = roc_auc_score(labels, outputs[:, 0]), f1_score(labels, predicted)
    else:
        predicted = outputs.argmax(1)
        auc, f1 = roc_auc_score(targets, outputs), f1_score(labels, predicted, average="macro")
    expected = {"accuracy": np.mean(predicted == labels), "f1_macro": f1, "roc_auc": auc}
    for monitor in ("val_f1_macro", "val_roc_auc"):
        for metric in metrics_of(tiny(f"training.monitor={monitor}").training, classes):
            for part in (slice(0, 300), slice(300, 500)):
                metric.update_state(targets[part], outputs[part])
            if metric.name in expected:
                assert float(metric.result()) == pytest.approx(expected[metric.name], abs=1e-3)


def test_any_validation_metric_decides_which_epoch_is_the_best(
    three_classes: PreparedDataset, tmp_path: Path
):
    for name in ("val_f1_macro", "val_roc_auc", "val_balanced_accuracy"):
        config = tiny(f"training.monitor={name}", "training.epochs=3")
        progress = train(config, three_classes, tmp_path / name)
        best, value = progress.best(config.training)
        assert value == max(progress.history[name]) == progress.history[name][best - 1]
        assert progress.epoch_metrics(config.training, 3)[f"best_{name}"] == value


@pytest.mark.parametrize("classes", [2, 3])
def test_focal_loss_weighs_each_image_by_what_is_missing(
    dataset: PreparedDataset, three_classes: PreparedDataset, tmp_path: Path, classes: int
):
    """Lin et al., Focal Loss for Dense Object Detection, 2017: (1 - p)^gamma * -log(p)."""
    data = dataset if classes == 2 else three_classes
    config = tiny(
        "training.loss=focal", "training.focal_gamma=3", "training.epochs=1",
        "training.monitor=val_loss",
    )  # fmt: skip
    outputs = kept_outputs(config, data, tmp_path / "focal").astype(float)
    labels = data.labels[data.indices("validation")]
    if classes == 2:
        outputs = np.hstack([1 - outputs, outputs])
    right = outputs[np.arange(len(labels)), labels]
    loss = train(config, data, tmp_path / "focal").history["val_loss"][0]
    assert loss == pytest.approx(np.mean((1 - right) ** 3 * -np.log(right)), rel=1e-4)


def test_class_weights_change_the_loss_of_the_training_only(
    dataset: PreparedDataset, tmp_path: Path
):
    first, second = dataset.classes
    plain = tiny("training.epochs=1", "optimizer.learning_rate=1e-9")
    heavy = tiny(
        "training.epochs=1", "optimizer.learning_rate=1e-9",
        f"training.class_weights={{{first}: 10, {second}: 10}}",
    )  # fmt: skip
    once = train(plain, dataset, tmp_path / "plain").history
    ten_times = train(heavy, dataset, tmp_path / "heavy").history
    assert ten_times["loss"][0] == pytest.approx(10 * once["loss"][0], rel=1e-3)
    assert ten_times["val_loss"][0] == pytest.approx(once["val_loss"][0], rel=1e-3)


def test_probabilities_of_an_image_and_its_mirror_image_are_averaged(dataset: PreparedDataset):
    config = tiny()
    model = fit.compiled_model(config, dataset, phases.phases(config)[0])
    metadata = Metadata(dataset.classes, 0.5, 1.0, 20, 24, 3, "")
    images = dataset.images[:4]
    plain = Classifier(model, metadata)
    flipped = plain.with_metadata(replace(metadata, flip=True))
    both = (plain.probabilities(images) + plain.probabilities(images[:, :, ::-1])) / 2
    assert flipped.probabilities(images) == pytest.approx(both)
    assert flipped.probabilities(images) == pytest.approx(flipped.probabilities(images[:, :, ::-1]))


def test_the_batch_size_is_halved_until_the_memory_is_enough(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without a GPU nothing here runs out of its memory: the error stands for it."""

    def step(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
        assert len(images) == len(labels)
        if len(images) > 6:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(keras.Model, "train_on_batch", step)
    config = tiny("training.batch_size=auto")
    assert automatic.resolved(config, dataset, tmp_path).batch_size == 5  # 21, 10, 5
    monkeypatch.undo()
    assert automatic.resolved(config, dataset, tmp_path).batch_size == 5  # a restart keeps it


def test_without_a_gpu_auto_is_32(dataset: PreparedDataset, tmp_path: Path):
    config = tiny("training.batch_size=auto")
    assert automatic.resolved(config, dataset, tmp_path).batch_size == 21  # images of training
