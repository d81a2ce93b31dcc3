"""The processors that a training uses, and the settings that depend on them."""

import os

import joblib
import keras
import tensorflow as tf

from image_classifier.config.schema import Training
from image_classifier.errors import InputError


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return int(joblib.cpu_count())


def threads(training: Training | None = None) -> int:
    """Return the number of threads that share one operation of TensorFlow.

    `training.threads` decides, or TF_NUM_INTRAOP_THREADS, or the number of cores. Only the same
    number of threads gives the same weights to the last bit.

    Args:
        training: A training that is to begin; None: the one that `configure` prepared.
    """
    chosen = training.threads if training else None
    chosen = chosen or tf.config.threading.get_intra_op_parallelism_threads()
    return int(chosen or os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or cores()


def describe() -> str:
    """Return TensorFlow's version and the processors it uses."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in _gpus()
    ]
    processors = ", ".join(names) or f"no GPU, {cores()} CPU cores"
    return f"TensorFlow {tf.__version__}: {processors}"


def has_gpu() -> bool:
    """Return whether TensorFlow sees a GPU."""
    return bool(_gpus())


def check(training: Training) -> None:
    """Check that the devices exist which the settings need.

    Raises:
        InputError: they do not; the text names the setting.
    """
    if training.mixed_precision and not _gpus():
        raise InputError(
            f"training.mixed_precision=true needs a GPU; found {describe()}. Set it to false."
        )
    if training.mirrored and len(_gpus()) < 2:
        raise InputError(
            f"training.mirrored=true needs two or more GPUs; found {describe()}. Set it to false."
        )


def configure(training: Training) -> tf.distribute.Strategy:
    """Set threads, seeds and determinism; return the distribution strategy.

    Build and compile the model inside the strategy's `scope()`.
    """
    if training.threads:
        tf.config.threading.set_intra_op_parallelism_threads(training.threads)
        tf.config.threading.set_inter_op_parallelism_threads(training.threads)
    keras.backend.clear_session()
    keras.utils.set_random_seed(training.seed)
    if training.deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf.distribute.MirroredStrategy() if training.mirrored else tf.distribute.get_strategy()


def compiles_with_xla(training: Training) -> bool:
    """Return whether to compile with XLA: on a GPU, unless the training must be deterministic.

    On the CPU its convolutions take nine times as long, and some of its operations are not
    deterministic.
    """
    return has_gpu() and not training.deterministic


def _gpus() -> list[tf.config.PhysicalDevice]:
    return list(tf.config.list_physical_devices("GPU"))
