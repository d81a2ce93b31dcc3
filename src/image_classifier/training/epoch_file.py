"""The file of an epoch: every variable of model and optimizer, and the progress, with checksums."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classifier.config.schema import Training
from image_classifier.project import paths
from image_classifier.training.progress import Progress

PROGRESS = "progress.json"  # inside the file, beside the variables
CHUNK = 2**20  # bytes; the checksum and the write of a chunk find it in the processor's cache


def epoch_file(folder: Path, epoch: int) -> Path:
    """Return the path of the file of an epoch, counted from 1."""
    return folder / f"epoch-{epoch:06}.npz"


def progress_json(progress: Progress) -> str:
    """Return the progress as it is stored in an epoch's file."""
    return json.dumps(asdict(progress))


def write_variables(path: Path, progress: str, variables: Sequence[tf.Tensor]) -> None:
    """Write variables in NumPy's npz format, which has a checksum for each.

    np.savez copies them first, which takes about twice the processor time of a training step.

    Args:
        path: The new file.
        progress: From `progress_json`.
        variables: In the order of `variables_of`.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(PROGRESS, progress)
        for index, variable in enumerate(variables):
            array = np.asarray(variable)
            header = np.lib.format.header_data_from_array_1_0(array)
            content = array.reshape(-1).view(np.uint8).data
            with archive.open(f"{index}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for start in range(0, len(content), CHUNK):
                    member.write(content[start : start + CHUNK])


def restore(model: keras.Model, folder: Path, training: Training) -> Progress:
    """Give a compiled model the state in which an earlier attempt left it; return the progress."""
    progress, values = latest(folder, training)
    if progress.epochs:
        for variable, value in zip(variables_of(model), values, strict=True):
            variable.assign(value)
    return progress


def latest(folder: Path, training: Training) -> tuple[Progress, list[npt.NDArray[np.generic]]]:
    """Return the progress of an earlier attempt and its last variables; without one, none.

    A damaged file is skipped with a message: the training continues from the previous file that
    was kept, or starts from the beginning.
    """
    for path in sorted(folder.glob(paths.EPOCHS), reverse=True):
        try:
            progress, values = _read(path)
            best = progress.best(training)[0]
            if best not in (0, progress.epochs):
                _read(epoch_file(folder, best))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            print(
                f"The checkpoint {path}, or that of the best epoch, is damaged ({error}). Trying "
                f"an earlier checkpoint. If there is none, the training starts from the beginning."
            )
            continue
        return progress, values
    return Progress(), []


def assign_weights(model: keras.Model, folder: Path, epoch: int) -> None:
    """Give a model the weights of an epoch, counted from 1, without the optimizer's variables."""
    with np.load(epoch_file(folder, epoch)) as content:
        # `variables_of` lists the model's variables first, so their numbers are the same here
        for index, variable in enumerate(model.variables):
            variable.assign(content[str(index)])


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Return every variable that decides how the training of a compiled model continues.

    The variables of the model come first. With a moving average of the weights, each average takes
    the place of its weight, and the weight that of the average: so the first part of a file always
    has the weights that were validated.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    exchanged: dict[int, keras.Variable] = {}
    for weight, average in _averages(model.optimizer):
        exchanged |= {id(weight): average, id(average): weight}
    return [exchanged.get(id(variable), variable) for variable in variables]


def _averages(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return the weights that have a moving average, each with its average."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of float16
    parts = getattr(optimizer, "optimizers", [optimizer])
    return [
        pair
        for part in parts
        if part.use_ema
        # no public attribute of Keras has them; keras.callbacks.SwapEMAWeights reads the same
        for pair in zip(
            part._trainable_variables, part._model_variables_moving_average, strict=True
        )
    ]


def _read(path: Path) -> tuple[Progress, list[npt.NDArray[np.generic]]]:
    with np.load(path) as content:  # raises on damage: a zip file has checksums
        progress = Progress(**json.loads(content[PROGRESS]))
        return progress, [content[str(index)] for index in range(len(content.files) - 1)]
