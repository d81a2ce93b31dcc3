"""predict: classifies image files with a registered model, by default the champion.

    image-classifier predict chest.jpg folder/
    image-classifier predict folder/ --csv > predictions.csv
    image-classifier predict folder/ --explain heat_maps/
    image-classifier predict folder/ s3://bucket/folder/ --output predictions.parquet
    image-classifier predict folder/ --replay predictions.jsonl

Searches folders for files. A file that is not an image is skipped with a message; the exit code is
then 1.

For many files, use --output: it has a row for each file, also for one that cannot be read (column
`error`). The command goes on where it ended: after a kill or a full disk, repeat it.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from image_classifier.bulk import sources
from image_classifier.config.arguments import probability
from image_classifier.config.compose import load
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths

if TYPE_CHECKING:
    import pyarrow as pa

    from image_classifier.bulk.output import Output
    from image_classifier.classifier import Classifier, Metadata
    from image_classifier.serving.prediction import Prediction
    from image_classifier.tracking.registry import Version

RAY_BYTES = 2**30  # of a Ray that is started here: names, results, and the classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sources", nargs="+", type=sources.source,
        help="image files, or folders with images; also s3://BUCKET/FOLDER",
    )  # fmt: skip
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    parser.add_argument("--threshold", type=probability, help="instead of the model's own, 0 to 1")
    parser.add_argument(
        "--explain",
        type=paths.expanded,
        metavar="FOLDER",
        help="write a heat map of each image there",
    )
    parser.add_argument(
        "--output",
        type=paths.expanded,
        metavar="FILE",
        help="write the results to FILE.csv or FILE.parquet, and go on with it after a kill",
    )
    parser.add_argument(
        "--replay",
        type=paths.expanded,
        metavar="LOG",
        help="repeat what `serve` has logged about these images, and compare the answers",
    )
    parser.add_argument(
        "--on",
        choices=["ray"],
        help="with --output: on the Ray cluster at RAY_ADDRESS, or else on one started here",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code: 1 if a file is not an image.

    Raises:
        InputError: arguments exclude each other, a file or folder or the model does not exist, or
            the output was begun with other settings.
    """
    if arguments.replay:
        options = (arguments.model, arguments.csv, arguments.threshold, arguments.explain)
        if any(options) or arguments.output or arguments.on:
            raise InputError("--replay excludes the other options: the log has all settings.")
        from image_classifier.bulk.replay import replay
        from image_classifier.tracking.verified_models import load_classifier

        return replay(arguments.replay, arguments.sources, lambda uri: load_classifier(uri)[0])
    if arguments.output:
        if arguments.csv or arguments.explain:
            raise InputError("--output excludes --csv and --explain: they print one by one.")
        from image_classifier.bulk.output import check_target

        check_target(arguments.output)
        names = []
        sources.check(arguments.sources)
    else:
        if arguments.on:
            raise InputError(f"--on {arguments.on} needs --output FILE.csv or FILE.parquet.")
        names = list(sources.find(arguments.sources))
    uri = arguments.model or f"models:/{load().tracking.registered_model}@champion"

    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.tracking.verified_models import load_classifier

    classifier, version = load_classifier(uri)
    if arguments.threshold is not None and len(classifier.metadata.classes) != 2:
        raise InputError(
            f"--threshold: {version.uri} has {len(classifier.metadata.classes)} classes, and "
            f"predicts the most probable one. Leave the option out."
        )
    print(describe(version.uri, classifier.metadata, arguments.threshold), file=sys.stderr)
    if "unusual" in classifier.metadata.unknown and classifier.known is None:
        print(
            f"{version.uri} was registered without the stage evaluate, so it cannot tell unusual "
            f"images: none is `unknown` for that reason.",
            file=sys.stderr,
        )
    if arguments.output:
        unreadable, total = write_all(arguments, classifier, version)
        print(f"{arguments.output}: {total} files.", file=sys.stderr)
        if unreadable:
            print(f"{unreadable} of them cannot be read: see the column error.", file=sys.stderr)
    else:
        unreadable = print_all(arguments, classifier, names)
        if unreadable:
            print(f"{unreadable} of {len(names)} files skipped.", file=sys.stderr)
    return 1 if unreadable else 0


def print_all(arguments: argparse.Namespace, classifier: "Classifier", names: Sequence[str]) -> int:
    """Print the predictions, and write the heat maps; return how many files are unreadable."""
    from image_classifier.bulk.rows import csv_values, predicted, row_of, schema_of
    from image_classifier.classifier import CHUNK

    columns = schema_of(classifier).names[:-1]  # without errors, which are printed elsewhere
    print(csv_text(columns) if arguments.csv else table_header(classifier), flush=True)
    results = classifier.outputs_of_files(names, sources.read, classifier.remembers)
    bar = tqdm(results, "Classifying", len(names), unit="image", disable=None)
    number = skipped = 0
    stream = iter(bar)
    while chunk := list(islice(stream, CHUNK)):
        for name, prediction in predicted(classifier, chunk, arguments.threshold):
            if isinstance(prediction, UnreadableImage):
                skipped += 1
                bar.write(f"skipped {name}: {prediction}", file=sys.stderr)
            else:
                row = row_of(name, prediction)
                line = csv_text(csv_values(row)) if arguments.csv else table_line(name, prediction)
                bar.write(line)
                if arguments.explain:
                    target = arguments.explain / f"{number:04}_{Path(name).stem}.png"
                    write_heat_map(target, classifier, name, prediction, arguments.threshold)
            number += 1
    return skipped


def write_all(
    arguments: argparse.Namespace, classifier: "Classifier", version: "Version"
) -> tuple[int, int]:
    """Write the output file; return how many files are unreadable, and how many there are."""
    from image_classifier.bulk import output

    settings = settings_of(arguments, classifier, version)
    with output.begin(
        arguments.output, settings, lambda: sources.find(arguments.sources)
    ) as unfinished:
        missing = unfinished.missing()
        done = unfinished.total - sum(map(unfinished.size, missing))
        if done:
            print(f"{done} of {unfinished.total} files are classified: going on.", file=sys.stderr)
        with tqdm(
            desc="Classifying", total=unfinished.total, initial=done, unit="image", disable=None
        ) as bar:
            tables = (
                on_ray(unfinished, missing, version, arguments)
                if arguments.on
                else here(unfinished, missing, classifier, arguments.threshold)
            )
            for number, table in tables:
                unfinished.write(number, table)
                bar.update(len(table))
        return unfinished.finish(), unfinished.total


def here(
    unfinished: "Output", missing: Sequence[int], classifier: "Classifier", threshold: float | None
) -> Iterator[tuple[int, "pa.Table"]]:
    """Yield the missing parts, classified in this process."""
    from image_classifier.bulk.rows import table_of

    names = chain.from_iterable(unfinished.files(missing))
    results = classifier.outputs_of_files(names, sources.read, classifier.remembers)
    for number in missing:
        of_part = list(islice(results, unfinished.size(number)))
        yield number, table_of(classifier, of_part, threshold)


def on_ray(
    unfinished: "Output",
    missing: Sequence[int],
    version: "Version",
    arguments: argparse.Namespace,
) -> Iterator[tuple[int, "pa.Table"]]:
    """Yield the missing parts, classified on a Ray cluster."""
    from image_classifier.sweeps.launchers import start_ray
    from image_classifier.tracking.verified_models import classifier_files

    quiet = {"logging_level": "WARNING", "log_to_driver": False}
    start_ray("--on ray", RAY_BYTES, os.environ.get("RAY_ADDRESS"), **quiet)
    from image_classifier.bulk import on_ray

    parts = zip(missing, unfinished.files(missing), strict=True)
    files = classifier_files(version)
    yield from on_ray.classify(parts, files, arguments.threshold, arguments.sources)


def settings_of(
    arguments: argparse.Namespace, classifier: "Classifier", version: "Version"
) -> dict[str, Any]:
    """Return what the results depend on, ready for JSON; the names are for a message."""
    import tensorflow as tf

    from image_classifier.bulk.rows import schema_of
    from image_classifier.tracking.registry import DIGEST

    metadata = classifier.metadata
    own = metadata.threshold if len(metadata.classes) == 2 else None
    return {
        "the model": version.uri,
        "the model's SHA-256": version.tags[DIGEST],
        "the threshold": own if arguments.threshold is None else arguments.threshold,
        "the sources": [
            text if text.startswith(sources.S3) else str(Path(text).absolute())
            for text in arguments.sources
        ],
        "the columns": schema_of(classifier).names,
        "TensorFlow": tf.__version__,
    }


def describe(uri: str, metadata: "Metadata", threshold: float | None) -> str:
    """Return one line: the model, and the threshold of its positive class."""
    if len(metadata.classes) != 2:
        return uri
    limit = metadata.threshold if threshold is None else threshold
    return f"{uri}: {metadata.classes[1]} when its probability is at least {limit:.4g}"


def table_header(classifier: "Classifier") -> str:
    """Return the line above the predictions."""
    classes = classifier.metadata.classes
    width = max(7, *map(len, classes))
    seen = [f"{'seen':9}"] if classifier.remembers else []
    columns = [f"{'label':{width}}", *(f"{label:>6}" for label in classes), "unusual", *seen]
    return "  ".join([*columns, "path"])


def table_line(name: str, prediction: "Prediction") -> str:
    """Return a prediction as a line of a table: label, probabilities, how unusual, path."""
    probabilities = prediction["probabilities"]
    width = max(7, *map(len, probabilities))
    columns = [f"{value:>{max(6, len(label))}.4f}" for label, value in probabilities.items()]
    unusual = "" if prediction["unusual"] is None else f"{prediction['unusual']:.1f}%"
    seen = [f"{prediction['seen']:9}"] if "seen" in prediction else []
    label = f"{prediction['label']:{width}}"
    return "  ".join([label, *columns, f"{unusual:>7}", *seen, name])


def csv_text(values: Sequence[object]) -> str:
    """Return values as one line of CSV, with quotes if needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def write_heat_map(
    target: Path,
    classifier: "Classifier",
    name: str,
    prediction: "Prediction",
    threshold: float | None,
) -> None:
    """Write an image with a heat map of the evidence for its predicted class."""
    from image_classifier.evaluation import heat_maps

    pixels = classifier.decode(sources.read(name))
    probabilities = np.array([[*prediction["probabilities"].values()]], np.float32)
    chosen = classifier.decide(probabilities, threshold)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(heat_maps.explain(classifier, pixels, chosen)).save(target)
