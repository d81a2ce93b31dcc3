"""What a training computes on: processors, precision, and copies of the model side by side."""

import os

import joblib
import keras
import tensorflow as tf

from image_classifier.errors import InputError
from image_classifier.schema import Training


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return int(joblib.cpu_count())


def threads() -> int:
    """Return the number of threads that share one operation of TensorFlow.

    `training.threads` sets it, or else TF_NUM_INTRAOP_THREADS; else there is one for each core.
    Weights repeat to the last bit only with as many.
    """
    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    return int(chosen or os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or cores()


def describe() -> str:
    """Return TensorFlow's version and the processors it uses."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in _gpus()
    ]
    processors = ", ".join(names) or f"no GPU, {cores()} CPU cores"
    return f"TensorFlow {tf.__version__}: {processors}"


def check(training: Training) -> None:
    """See that the devices are there that the settings ask for.

    Raises:
        InputError: naming the setting.
    """
    if training.mixed_precision and not _gpus():
        raise InputError(
            f"training.mixed_precision computes in float16, for which a GPU is needed; found "
            f"{describe()}. Set it to false."
        )
    if training.mirrored and len(_gpus()) < 2:
        raise InputError(
            f"training.mirrored spreads each batch over two or more GPUs; found {describe()}. "
            f"Set it to false."
        )


def configure(training: Training) -> tf.distribute.Strategy:
    """Seed everything, set determinism, and return how the model is distributed.

    Build and compile the model in the strategy's `scope()`.
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
    """Return whether XLA pays: on a GPU, and where it need not be deterministic.

    On the CPU its convolutions take nine times as long; and not all of its operations are
    deterministic.
    """
    return bool(_gpus()) and not training.deterministic


def _gpus() -> list[tf.config.PhysicalDevice]:
    return list(tf.config.list_physical_devices("GPU"))
