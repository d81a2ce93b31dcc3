"""drift: tests whether the images of a folder come from where the training images came from.

    image-classifier drift folder/
    image-classifier drift folder/ --model models:/NAME/3

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

from image_classifier.config.compose import load
from image_classifier.data.folders import find_files
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from image_classifier.evaluation.drift import Drift

DRIFT = 3  # the exit code
MOST_UNUSUAL = 5  # files that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sources", nargs="+", type=paths.expanded, help="image files, or folders with images"
    )
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code.

    Raises:
        InputError: a file or folder or the model does not exist, the model knows no images, or too
            few images can be read.
    """
    files = find_files(arguments.sources)
    name = arguments.model or f"models:/{load().tracking.registered_model}@champion"

    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.evaluation import drift
    from image_classifier.known_images import NOT_KNOWN, join
    from image_classifier.tracking.verified_models import load_classifier

    classifier, version = load_classifier(name)
    known = classifier.known
    if known is None:
        raise InputError(f"{version.uri} {NOT_KNOWN}")
    print(version.uri, file=sys.stderr)
    read, parts = [], []
    bar = tqdm(classifier.outputs_of_files(files), "Reading", len(files), disable=None)
    for path, result, _ in bar:
        if isinstance(result, UnreadableImage):
            bar.write(f"skipped {path}: {result}", file=sys.stderr)
        else:
            read.append(path)
            parts.append(result.measurements)
    skipped = len(files) - len(read)
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


def unusual(files: list[Path], percentiles: "npt.NDArray[np.float64]") -> str:
    """Return how many images are unusual, and the files of the most unusual ones."""
    many = int((percentiles >= 95).sum())
    lines = [f"More unusual than 95% of the validation images: {many} of {len(files)}; usually 5%"]
    for index in (-percentiles).argsort(kind="stable")[:MOST_UNUSUAL]:
        lines.append(f"  {percentiles[index]:5.1f}%  {files[index]}")
    return "\n".join(lines)
