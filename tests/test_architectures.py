import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from conftest import NETWORKS, architecture
from image_classifier.config import compose
from image_classifier.training import architectures
from image_classifier.training.balanced_accuracy import BalancedAccuracy
from image_classifier.training.compilation import compile_for_training

SETTINGS = compose.config_of("optimizer=adam_constant")


def build(*overrides: str, classes: int = 2) -> keras.Model:
    settings = compose.config_of(*overrides)
    return architectures.build(settings.model, settings.image.shape, classes)


def test_the_articles_model_has_the_articles_parameters_and_layers():
    model = build("model=article")
    assert model.count_params() == 41_014_209
    kinds = [type(layer).__name__ for layer in model.layers]
    block = ["Conv2D", "MaxPooling2D", "Dropout"]
    assert kinds == [
        "InputLayer",
        "Rescaling",
        *block,
        *block,
        "Flatten",
        "Dense",
        "Dropout",
        "Dense",
    ]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [2, 5])
def test_two_classes_give_one_probability_and_more_give_one_each(name: str, classes: int):
    model = build(*architecture(name), "image.height=32", "image.width=40", classes=classes)
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 40, 3), dtype=np.uint8)
    outputs = model.predict(images, verbose=0)
    assert outputs.shape == (3, 1 if classes == 2 else 5)
    assert ((outputs >= 0) & (outputs <= 1)).all()
    if classes > 2:
        assert outputs.sum(1) == pytest.approx(1)


def test_rescaling_is_part_of_the_model():
    model = build("model=article", "image.height=16", "image.width=16")
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    assert model.layers[1](white).numpy().max() == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_keep_their_names_in_a_second_run_of_one_process(classes: int):
    for _ in range(2):
        model = build("image.height=32", "image.width=32", classes=classes)
        compile_for_training(model, SETTINGS.optimizer, SETTINGS.training, 1)
        images = np.zeros((4, 32, 32, 3), np.uint8)
        history = model.fit(images, np.zeros((4, model.output_shape[-1])), verbose=0).history
        assert set(history) == {"accuracy", "balanced_accuracy", "loss"}


def test_a_cosine_schedule_falls_to_zero_over_the_training():
    model = build("image.height=32", "image.width=32")
    cosine = compose.config_of("optimizer=adam_cosine", "optimizer.learning_rate=0.01")
    compile_for_training(model, cosine.optimizer, cosine.training, steps=4)
    rates = []
    for _ in range(4):
        rates.append(float(model.optimizer.learning_rate))
        model.fit(np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 1)), verbose=0)
    assert rates == pytest.approx([0.01, 0.008536, 0.005, 0.001464], rel=1e-3)
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_float16_arithmetic_keeps_float32_weights_and_probabilities():
    settings = compose.config_of("image.height=32", "image.width=32")
    model = architectures.build(settings.model, settings.image.shape, 2, "mixed_float16")
    assert {layer.compute_dtype for layer in model.layers[1:-1]} == {"float16"}
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert model.output.dtype == "float32"
    after = architectures.build(settings.model, settings.image.shape, 2)
    assert {layer.compute_dtype for layer in after.layers[1:]} == {"float32"}


@pytest.mark.parametrize("classes", [2, 5])
def test_balanced_accuracy_is_that_of_scikit_learn(classes: int):
    generator = np.random.default_rng(classes)
    labels = np.minimum(generator.integers(0, 12, 200), classes - 1)
    outputs = generator.random((200, 1 if classes == 2 else classes)).astype(np.float32)
    predicted = outputs[:, 0] >= 0.5 if classes == 2 else outputs.argmax(1)
    targets = labels[:, None] if classes == 2 else np.eye(classes)[labels]
    metric = BalancedAccuracy(classes)
    for start in range(0, 200, 64):
        metric.update_state(targets[start : start + 64], outputs[start : start + 64])
    expected = balanced_accuracy_score(labels, predicted)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    metric.reset_state()
    metric.update_state(
        np.eye(outputs.shape[1])[[0] * 9] * (classes > 2), outputs[:9]
    )  # a class without images does not count
    assert float(metric.result()) == pytest.approx(np.mean(predicted[:9] == 0))
