"""predict: classifies image files with a registered model, by default the champion.

    python -m image_classifier.predict chest.jpg folder/
    python -m image_classifier.predict folder/ --csv > answers.csv
    python -m image_classifier.predict folder/ --explain heat_maps/

Folders are searched for files. One that is no image is skipped with a message; the exit code is
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

from image_classifier import config
from image_classifier.command_line import explain
from image_classifier.data.images import UnreadableImage
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier, Settings
    from image_classifier.serving.answer import Answer


def find_files(sources: Sequence[Path]) -> list[Path]:
    """Return the files named, and those in the folders named, hidden ones left out.

    Raises:
        InputError: one does not exist.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += sorted(
                path
                for path in source.rglob("*")
                if path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(source).parts)
            )
        elif source.is_file():
            files.append(source)
        else:
            raise InputError(f"{source}: no such file or folder.")
    return files


def described(uri: str, settings: "Settings", threshold: float | None) -> str:
    """Return in a line which model answers, and from which probability."""
    if len(settings.classes) != 2:
        return uri
    limit = settings.threshold if threshold is None else threshold
    return f"{uri}: {settings.classes[1]} from a probability of {limit:.4g}"


def header(classes: Sequence[str], as_csv: bool) -> str:
    """Return the line above the answers."""
    if as_csv:
        return csv_text(["path", "label", *(f"p_{label}" for label in classes)])
    width = max(5, *map(len, classes))
    return "  ".join([f"{'label':{width}}", *(f"{label:>6}" for label in classes), "path"])


def csv_line(path: Path, answer: "Answer") -> str:
    """Return an answer as a line of CSV: path, label, the probability of each class."""
    return csv_text([path, answer["label"], *answer["probabilities"].values()])


def table_line(path: Path, answer: "Answer") -> str:
    """Return an answer as a line for people: label, the probability of each class, path."""
    probabilities = answer["probabilities"]
    width = max(5, *map(len, probabilities))
    columns = [f"{value:>{max(6, len(label))}.4f}" for label, value in probabilities.items()]
    return "  ".join([f"{answer['label']:{width}}", *columns, str(path)])


def csv_text(values: Sequence[object]) -> str:
    """Return values as one line of CSV, quoted where needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def explain_to(target: Path, classifier: "Classifier", path: Path, answer: "Answer") -> None:
    """Write an image with the heat map of what speaks for its answer."""
    from image_classifier.evaluation import heat_maps

    pixels = classifier.decode(path)
    chosen = np.array([classifier.settings.classes.index(answer["label"])])
    heat = heat_maps.heat_maps(classifier, pixels[None], chosen)[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(heat_maps.overlay(pixels, heat)).save(target)


def probability(text: str) -> float:
    """Return a number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    parser.add_argument("--threshold", type=probability, help="instead of the model's own, 0 to 1")
    parser.add_argument(
        "--explain", type=Path, metavar="FOLDER", help="write a heat map of each image there"
    )
    arguments = parser.parse_args()
    files = find_files(arguments.sources)
    name = arguments.model or f"models:/{config.load().tracking.registered_model}@champion"

    # import TensorFlow and MLflow
    from image_classifier.serving.answer import answers
    from image_classifier.tracking import registry

    classifier, version = registry.load_classifier(name)
    print(described(version.uri, classifier.settings, arguments.threshold), file=sys.stderr)
    show = csv_line if arguments.csv else table_line
    print(header(classifier.settings.classes, arguments.csv), flush=True)
    skipped = 0
    bar = tqdm(classifier.probabilities_of_files(files), "Classifying", len(files), disable=None)
    for number, (path, result) in enumerate(bar):
        if isinstance(result, UnreadableImage):
            skipped += 1
            bar.write(f"skipped {path}: {result}", file=sys.stderr)
            continue
        (answer,) = answers(classifier, result[None], arguments.threshold)
        bar.write(show(path, answer))
        if arguments.explain:
            explain_to(arguments.explain / f"{number:04}_{path.stem}.png", classifier, path, answer)
    if skipped:
        print(f"{skipped} of {len(files)} files skipped.", file=sys.stderr)
    return 1 if skipped else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, OSError) as error:
        sys.exit(f"predict: {explain(error)}")
