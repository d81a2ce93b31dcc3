"""Measures training steps on a GPU: images per second, and the share of time the GPU is busy.

    python benchmarks/gpu.py [--batch-sizes 32 128 512] [--seconds 8]

For `article`, `compact` and `pretrained` (EfficientNetV2B0 with random weights, all layers
trained), in float32 and in mixed precision, on random images that lie in memory: so it measures the
model, not the input pipeline. With KERAS_BACKEND=jax it runs on Keras's JAX backend, whose steps
XLA always compiles; with TensorFlow it measures with and without XLA. `nvidia-smi` gives how busy
the GPU is.
Prints a Markdown table.
"""

import argparse
import subprocess
import time

import keras
import numpy as np

from image_classifier.config.schema import (
    ArticleModel,
    CompactModel,
    Model,
    Optimizer,
    PretrainedModel,
    Training,
)
from image_classifier.training import architectures
from image_classifier.training.compilation import compile_for_training

SIDE = 224
CLASSES = 10
IMAGES = 2048
# as in conf/, without Hydra, which need not be on the machine with the GPU
MODELS: dict[str, Model] = {
    "article": ArticleModel(
        name="article", filters=[32, 64], kernel_size=5, dense_units=256, dropout=0.2
    ),
    "compact": CompactModel(
        name="compact", stem_kernel_size=7, stem_stride=4, filters=[16, 32, 64, 96, 128],
        dropout=0.2, batch_norm_momentum=0.8,
    ),
    "pretrained": PretrainedModel(
        name="pretrained", backbone="EfficientNetV2B0", weights=None, license=None, dropout=0.2
    ),
}  # fmt: skip
ADAM = Optimizer(
    name="adam", weight_decay=0, learning_rate=0.001, schedule="constant", warm_up=0,
    clip_norm=None, average=None,
)  # fmt: skip
TRAINING = Training.model_construct(loss="cross_entropy", monitor="val_loss")


class Clock(keras.callbacks.Callback):
    """Notes when the epochs begin and end."""

    def __init__(self) -> None:
        """Start without an epoch."""
        super().__init__()
        self.times: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    on_epoch_end = on_epoch_begin


def busy(seconds: float) -> "subprocess.Popen[str]":
    """Start to note the share of time in which the GPU is busy, five times a second."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    return subprocess.Popen(
        ["timeout", str(seconds), *query, "-lms", "200"], stdout=subprocess.PIPE, text=True
    )


def measure(name: str, precision: str, xla: bool, size: int, seconds: float) -> str:
    """Return the row of one model, precision and batch size."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    shape = (SIDE, SIDE, 3)
    model = architectures.build(MODELS[name], shape, CLASSES, precision)  # type: ignore[arg-type]
    compile_for_training(model, ADAM, TRAINING, 1, xla=xla)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, *shape), np.uint8)
    labels = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, IMAGES)]
    try:
        clock = Clock()
        options = {"batch_size": size, "verbose": 0, "shuffle": False}
        model.fit(images, labels, epochs=2, callbacks=[clock], **options)  # the first one compiles
        epoch = clock.times[3] - clock.times[2]
        epochs = max(2, round(seconds / epoch))
        clock, sampler = Clock(), busy(epochs * epoch)
        model.fit(images, labels, epochs=epochs, callbacks=[clock], **options)
        samples = [int(line) for line in sampler.communicate()[0].split()][1:] or [0]
    except Exception as error:  # out of memory: TensorFlow and JAX raise classes of their own
        return f"| {name} | {precision} | {xla} | {size} | {type(error).__name__} | |"
    rate = epochs * IMAGES / (clock.times[-1] - clock.times[0])
    return f"| {name} | {precision} | {xla} | {size} | {rate:,.0f} | {np.mean(samples):.0f}% |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--seconds", type=float, default=8, help="of each row, default 8")
    arguments = parser.parse_args()
    card = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    print(f"{card.stdout.strip()}\nKeras {keras.__version__}, backend {keras.backend.backend()}\n")
    print("| model | precision | XLA | batch | images/s | GPU busy |\n|---|---|---|---|---|---|")
    jax = keras.backend.backend() == "jax"
    for name in MODELS:
        for precision in ("float32", "mixed_float16"):
            for xla in [True] if jax else [False, True]:
                for size in arguments.batch_sizes:
                    row = measure(name, precision, xla, size, arguments.seconds)
                    print(row, flush=True)


if __name__ == "__main__":
    main()
