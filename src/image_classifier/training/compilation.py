"""What a model is compiled with: its optimizer, its loss and its metrics."""

from typing import Any, TypeAlias

import keras
from keras import ops

from image_classifier.config.schema import Optimizer, Training
from image_classifier.training.balanced_accuracy import BalancedAccuracy, class_of

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def compile_for_training(
    model: keras.Model,
    optimizer: Optimizer,
    training: Training,
    steps: int,
    *,
    head_factor: float = 1,
    xla: bool = False,
    steps_at_once: int = 1,
) -> None:
    """Compile a model with its optimizer, its loss, and its metrics.

    Args:
        model: From `architectures.build`.
        optimizer: With a cosine schedule the learning rate falls to 0 over all steps.
        training: `loss` and `monitor` are used.
        steps: Number of batches in the whole training.
        head_factor: The learning rate of the last layer is so many times that of the others.
        xla: Whether XLA compiles the steps; see `devices.compiles_with_xla`.
        steps_at_once: How many steps TensorFlow runs before it returns to Python.
    """
    classes = max(2, model.output_shape[-1])
    chosen = _optimizer(optimizer, steps, 1)
    if head_factor != 1:
        of_head = {"probability/.*": _optimizer(optimizer, steps, head_factor)}
        chosen = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(chosen, of_head))
    model.compile(
        chosen,
        loss=_loss(training, classes),
        metrics=metrics_of(training, classes),
        jit_compile=xla,
        steps_per_execution=steps_at_once,
    )


def metrics_of(training: Training, classes: int) -> list[keras.metrics.Metric]:
    """Return the metrics of a training: two always, and the one that `training.monitor` needs."""
    # without names, Keras calls the metrics accuracy_1 in the second training of a process
    metrics: list[keras.metrics.Metric] = [
        keras.metrics.MeanMetricWrapper(recognised, name="accuracy"),
        BalancedAccuracy(classes),
    ]
    if training.monitor == "val_f1_macro":
        threshold = 0.5 if classes == 2 else None  # None: the class with the highest probability
        metrics.append(keras.metrics.F1Score("macro", threshold, "f1_macro"))
    if training.monitor == "val_roc_auc":
        many = {"multi_label": True, "num_labels": classes} if classes > 2 else {}
        metrics.append(keras.metrics.AUC(1000, name="roc_auc", **many))
    return metrics


def recognised(y_true: Any, y_pred: Any) -> Any:
    """Return for each image whether it is recognised, 1 or 0.

    Args:
        y_true: Labels of shape (images, outputs). Of a mixture, the larger part is the truth.
        y_pred: Probabilities of the same shape.
    """
    return ops.cast(ops.equal(class_of(y_true), class_of(y_pred)), "float32")


def _loss(training: Training, classes: int) -> keras.losses.Loss:
    if training.loss == "focal":  # without Keras's factor alpha, which would only scale the loss
        if classes == 2:
            return keras.losses.BinaryFocalCrossentropy(gamma=training.focal_gamma)
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=training.focal_gamma)
    if classes == 2:
        return keras.losses.BinaryCrossentropy()
    return keras.losses.CategoricalCrossentropy()


def _optimizer(settings: Optimizer, steps: int, factor: float) -> keras.optimizers.Optimizer:
    options = {
        "learning_rate": _rate(settings, steps, factor),
        "global_clipnorm": settings.clip_norm,
        "use_ema": settings.average is not None,
        "ema_momentum": settings.average or 0.99,
    }
    match settings.name:
        case "adam":
            return keras.optimizers.Adam(**options)
        case "adamw":
            return keras.optimizers.AdamW(weight_decay=settings.weight_decay, **options)
        case "sgd":
            decay = settings.weight_decay or None
            return keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=decay, **options)


def _rate(settings: Optimizer, steps: int, factor: float) -> Rate:
    rate = settings.learning_rate * factor
    if settings.schedule == "constant":
        return rate
    warm_up = round(steps * settings.warm_up)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warm_up else rate,
        steps - warm_up,
        warmup_target=rate if warm_up else None,
        warmup_steps=warm_up,
    )
