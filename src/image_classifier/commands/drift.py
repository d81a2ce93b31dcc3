"""drift: tests whether the images of a folder come from where the training images came from.

    image-classifier drift folder/
    image-classifier drift folder/ --model models:/NAME/3
    image-classifier drift --log predictions.jsonl --last 500

Compares them with images that the model was not trained on: brightness, contrast and sharpness,
content (what the model sees in them), and the predicted classes. Give images that are new to the
model, and of several images of one patient only one.

Exit code: 0 when no difference is found, 3 when there is one, 1 when the test was not possible
(a message says why) or a file was skipped. If you ask again and again about images from the same
source, one of twenty answers is a false alarm.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from image_classifier.config.arguments import count
from image_classifier.config.compose import load
from image_classifier.data.folders import find_files
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from image_classifier.evaluation.drift import Drift
    from image_classifier.serving.predictions_log import Record

DRIFT = 3  # the exit code
MOST_UNUSUAL = 5  # files that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sources", nargs="*", type=paths.expanded, help="image files, or folders with images"
    )
    parser.add_argument(
        "--log",
        type=paths.expanded,
        metavar="FILE",
        help="instead of images: the predictions that `serve` has logged; by default those of the "
        "version that answered last",
    )
    parser.add_argument("--last", type=count, default=1000, help="of the log; default: 1000")
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code.

    Raises:
        InputError: a file or folder or the model does not exist, the model knows no images, or too
            few images can be read.
    """
    if bool(arguments.sources) == bool(arguments.log):
        raise InputError("Name images and folders, or a log with --log FILE.")
    files = find_files(arguments.sources)
    name = arguments.model or f"models:/{load().tracking.registered_model}@champion"

    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.evaluation import drift
    from image_classifier.known_images import NOT_KNOWN, join
    from image_classifier.serving.predictions_log import Record
    from image_classifier.tracking.verified_models import check_version, load_classifier

    logged: list[Record] = []
    if arguments.log:
        logged, name = logged_by(
            arguments.log, arguments.last, arguments.model and check_version(arguments.model)
        )
    classifier, version = load_classifier(name)
    known = classifier.known
    if known is None:
        raise InputError(f"{version.uri} {NOT_KNOWN}")
    print(version.uri, file=sys.stderr)
    read = [f"{record.sha256} ({record.time})" for record in logged]
    parts = [record.measurements for record in logged]
    bar = tqdm(
        classifier.outputs_of_files(files), "Reading", len(files), disable=None if files else True
    )
    for path, result, _ in bar:
        if isinstance(result, UnreadableImage):
            bar.write(f"skipped {path}: {result}", file=sys.stderr)
        else:
            read.append(str(path))
            parts.append(result.measurements)
    skipped = len(files) + len(logged) - len(read)
    if skipped:
        print(f"{skipped} of {len(files)} files skipped.", file=sys.stderr)
    for images, kind in ((len(read), "images"), (len(known.sample), "images of the model")):
        if images < drift.FEWEST:
            raise InputError(
                f"{images} {kind}: the test whether they come from the same source needs at "
                f"least {drift.FEWEST}. Collect more."
            )
    new = join(parts)
    found = drift.measure_drift(known.sample, new, classifier.metadata.classes)
    print(describe(found, len(read)))
    print(unusual(read, known.percentiles(new.features, new.pixels)))
    if found.drifted:
        return DRIFT
    return 1 if skipped else 0


def logged_by(log: Path, last: int, model: str | None) -> tuple[list["Record"], str]:
    """Return the last predictions of a version in a log, and the version's address.

    Args:
        log: The file.
        last: How many.
        model: The version; None: the one that answered last.

    Raises:
        InputError: the file cannot be read, or has no prediction.
    """
    from image_classifier.serving import predictions_log

    records, damaged = predictions_log.read(log)
    if not records:
        raise InputError(
            f"{log} has no prediction. The setting serving.predictions_log names the log."
        )
    model = model or records[-1].model
    chosen = [record for record in records if record.model == model]
    print(
        f"{log}: {len(records)} predictions, {len(chosen)} of them by {model}; {damaged} lines are "
        f"damaged.",
        file=sys.stderr,
    )
    return chosen[-last:], model


def describe(found: "Drift", images: int) -> str:
    """Return what the test says, in a few lines.

    Args:
        found: The result of the test.
        images: How many images were read.
    """
    compared = f"{images} images"
    if found.images < images:
        compared += f", {found.images} of them drawn for the test"
    lines = [
        f"{compared}, compared with {found.reference_images} that the model was not trained on"
    ]
    lines.append(f"{found.verdict} (p = {found.p_value:.2g})")
    lines += [f"  {one.text} (p = {one.p_value:.2g})" for one in found.leading]
    if found.images_needed is not None:
        lines.append(f"About {found.images_needed} such images are enough to see it.")
    else:
        lines.append(f"So many images would have shown {found.visible} (power 80%).")
    return "\n".join(lines)


def unusual(files: list[str], percentiles: "npt.NDArray[np.float64]") -> str:
    """Return how many images are unusual, and the files of the most unusual ones."""
    many = int((percentiles >= 95).sum())
    lines = [f"More unusual than 95% of the validation images: {many} of {len(files)}; usually 5%"]
    for index in (-percentiles).argsort(kind="stable")[:MOST_UNUSUAL]:
        lines.append(f"  {percentiles[index]:5.1f}%  {files[index]}")
    return "\n".join(lines)
