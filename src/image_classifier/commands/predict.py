"""predict: classifies image files with a registered model, by default the champion.

    image-classifier predict chest.jpg folder/
    image-classifier predict folder/ --csv > predictions.csv
    image-classifier predict folder/ --explain heat_maps/

Searches folders for files. A file that is not an image is skipped with a message; the exit code is
then 1.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from image_classifier.config.compose import load
from image_classifier.config.schema import PROBABILITY
from image_classifier.data.folders import find_files
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.project import paths

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier, Metadata
    from image_classifier.serving.prediction import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sources", nargs="+", type=paths.expanded, help="image files, or folders with images"
    )
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    parser.add_argument("--threshold", type=probability, help="instead of the model's own, 0 to 1")
    parser.add_argument(
        "--explain",
        type=paths.expanded,
        metavar="FOLDER",
        help="write a heat map of each image there",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code: 1 if a file was skipped."""
    files = find_files(arguments.sources)
    name = arguments.model or f"models:/{load().tracking.registered_model}@champion"

    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.serving.prediction import predictions
    from image_classifier.tracking.verified_models import load_classifier

    classifier, version = load_classifier(name)
    print(describe(version.uri, classifier.metadata, arguments.threshold), file=sys.stderr)
    if "unusual" in classifier.metadata.unknown and classifier.known is None:
        print(
            f"{version.uri} was registered without the stage evaluate, so it cannot tell unusual "
            f"images: none is `unknown` for that reason.",
            file=sys.stderr,
        )
    line = csv_line if arguments.csv else table_line
    print(header(classifier, arguments.csv), flush=True)
    skipped = 0
    bar = tqdm(classifier.outputs_of_files(files), "Classifying", len(files), disable=None)
    for number, (path, result) in enumerate(bar):
        if isinstance(result, UnreadableImage):
            skipped += 1
            bar.write(f"skipped {path}: {result}", file=sys.stderr)
            continue
        seen = [classifier.seen(path)] if classifier.remembers else None
        (prediction,) = predictions(classifier, result, arguments.threshold, seen)
        bar.write(line(path, prediction))
        if arguments.explain:
            target = arguments.explain / f"{number:04}_{path.stem}.png"
            (chosen,) = classifier.decide(result.probabilities, arguments.threshold)
            write_heat_map(target, classifier, path, int(chosen))
    if skipped:
        print(f"{skipped} of {len(files)} files skipped.", file=sys.stderr)
    return 1 if skipped else 0


def describe(uri: str, metadata: "Metadata", threshold: float | None) -> str:
    """Return one line: the model, and the threshold of its positive class."""
    if len(metadata.classes) != 2:
        return uri
    limit = metadata.threshold if threshold is None else threshold
    return f"{uri}: {metadata.classes[1]} when its probability is at least {limit:.4g}"


def header(classifier: "Classifier", as_csv: bool) -> str:
    """Return the line above the predictions."""
    classes = classifier.metadata.classes
    if as_csv:
        seen = ["seen"] if classifier.remembers else []
        probabilities = [f"p_{label}" for label in classes]
        return csv_text(["path", "label", *probabilities, "plausible", "unusual", *seen])
    width = max(7, *map(len, classes))
    seen = [f"{'seen':9}"] if classifier.remembers else []
    columns = [f"{'label':{width}}", *(f"{label:>6}" for label in classes), "unusual", *seen]
    return "  ".join([*columns, "path"])


def csv_line(path: Path, prediction: "Prediction") -> str:
    """Return a prediction as a line of CSV; plausible classes are separated by `|`."""
    plausible = "|".join(prediction["plausible"] or ())
    unusual = "" if prediction["unusual"] is None else prediction["unusual"]
    seen = [prediction["seen"]] if "seen" in prediction else []
    probabilities = prediction["probabilities"].values()
    return csv_text([path, prediction["label"], *probabilities, plausible, unusual, *seen])


def table_line(path: Path, prediction: "Prediction") -> str:
    """Return a prediction as a line of a table: label, probabilities, how unusual, path."""
    probabilities = prediction["probabilities"]
    width = max(7, *map(len, probabilities))
    columns = [f"{value:>{max(6, len(label))}.4f}" for label, value in probabilities.items()]
    unusual = "" if prediction["unusual"] is None else f"{prediction['unusual']:.1f}%"
    seen = [f"{prediction['seen']:9}"] if "seen" in prediction else []
    label = f"{prediction['label']:{width}}"
    return "  ".join([label, *columns, f"{unusual:>7}", *seen, str(path)])


def csv_text(values: Sequence[object]) -> str:
    """Return values as one line of CSV, with quotes if needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def write_heat_map(target: Path, classifier: "Classifier", path: Path, chosen: int) -> None:
    """Write an image with a heat map of the evidence for a class, given by its index."""
    from image_classifier.evaluation import heat_maps

    pixels = classifier.decode(path)
    heat = heat_maps.heat_maps(classifier, pixels[None], np.array([chosen]))[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(heat_maps.overlay(pixels, heat)).save(target)


def probability(text: str) -> float:
    """Return a number from 0 to 1, for argparse."""
    try:
        return PROBABILITY.validate_python(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1") from None
