"""predict: classifies image files with a registered model, by default the champion.

    python -m image_classifier.predict chest.jpg folder/
    python -m image_classifier.predict folder/ --csv > answers.csv

Folders are searched for files. One that is no image is skipped with a message; the exit code is
then 1.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from image_classifier import config
from image_classifier.errors import InputError
from image_classifier.images import UnreadableImage

if TYPE_CHECKING:
    from image_classifier.classifier import Answer, Classifier

CHUNK = 256  # files decoded before they are classified: bounds the memory


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


def classify(
    classifier: "Classifier", files: Sequence[Path]
) -> Iterator[tuple[Path, "Answer | UnreadableImage"]]:
    """Yield each file, in order, with its answer or why it has none."""

    def decode(path: Path) -> object:
        try:
            return classifier.decode(path)
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            decoded = list(pool.map(decode, chunk))
            pixels = [item for item in decoded if isinstance(item, np.ndarray)]
            answers = iter(
                classifier.answer(classifier.probabilities(np.stack(pixels))) if pixels else []
            )
            for path, item in zip(chunk, decoded, strict=True):
                yield path, item if isinstance(item, UnreadableImage) else next(answers)


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


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    arguments = parser.parse_args()
    files = find_files(arguments.sources)
    name = arguments.model or f"models:/{config.load().tracking.registered_model}@champion"
    from image_classifier import tracking  # imports TensorFlow and MLflow

    classifier = tracking.load_classifier(name)
    show = csv_line if arguments.csv else table_line
    print(header(classifier.settings.classes, arguments.csv), flush=True)
    skipped = 0
    bar = tqdm(classify(classifier, files), "Classifying", len(files), disable=None)
    for path, answer in bar:
        if isinstance(answer, UnreadableImage):
            skipped += 1
            bar.write(f"skipped {path}: {answer}", file=sys.stderr)
        else:
            bar.write(show(path, answer))
    if skipped:
        print(f"{skipped} of {len(files)} files skipped.", file=sys.stderr)
    return 1 if skipped else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"predict: {error}")
