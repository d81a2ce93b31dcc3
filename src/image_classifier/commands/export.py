"""export: writes a registered model, by default the champion, to run without this package.

    image-classifier export --format onnx exported/
    image-classifier export --format litert --int8 exported/

The folder gets the model, model.json (classes, threshold, rules of decoding), golden/ (test images
with expected probabilities), run.py (runs it), README.md, model_card.md, and parity.md: how its
answers for the test images in build/ differ from the original ones. If they differ by more than a
limit, the command fails, and the folder is FOLDER.failed. MLflow stores it with the model's run.
"""

import argparse
import importlib.util
import json
import shutil
import sys
from typing import TYPE_CHECKING

import numpy as np

from image_classifier.config.arguments import probability
from image_classifier.config.compose import load
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.data.manifest import count_images
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import whole_folder

if TYPE_CHECKING:
    from image_classifier.classifier import Metadata
    from image_classifier.tracking.registry import Version

PACKAGES = {
    "onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",), "saved_model": (),
}  # fmt: skip
REPRESENTATIVES = 200  # training images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "folder", type=paths.expanded, metavar="FOLDER", help="where to write: a new folder"
    )
    parser.add_argument("--format", required=True, choices=PACKAGES)
    parser.add_argument("--model", help="address, e.g. models:/NAME/3; default: the champion")
    parser.add_argument(
        "--int8", action="store_true", help="LiteRT with integers of 8 bits: smaller, less exact"
    )
    parser.add_argument(
        "--limit",
        type=probability,
        help="how much a probability may differ, 0 to 1; default: 0.0001, with --int8 0.1, for a "
        "model that computes with 16 bits 0.01",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code.

    Raises:
        InputError: the folder exists, a package is missing, the model or the prepared images
            cannot be loaded or do not fit, or the export differs by more than the limit.
    """
    require_possible(arguments)
    config = load()
    dataset = load_prepared(config)
    uri = arguments.model or f"models:/{config.tracking.registered_model}@champion"

    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.export import convert, golden, parity, texts
    from image_classifier.export import run as program
    from image_classifier.tracking import connection, exports, version_texts
    from image_classifier.tracking.verified_models import load_classifier

    connection.connect(to_write=True)
    classifier, version = load_classifier(uri)
    require_fitting(config, dataset, classifier.metadata)
    half = convert.computes_in_half(classifier.model)
    limits = parity.INT8 if arguments.int8 else parity.HALF if half else parity.FLOAT
    if arguments.limit is not None:
        limits = limits._replace(difference=arguments.limit)
    training = dataset.indices("train")
    training = training[np.argsort(dataset.labels[training], kind="stable")]
    representatives = parity.spread(training, REPRESENTATIVES) if arguments.int8 else None
    export = texts.Export(
        version.uri,
        classifier.metadata,
        arguments.format,
        0 if representatives is None else len(representatives),
        *origin(config, dataset, version),
    )
    print(f"{version.uri}: writing {export.form}", file=sys.stderr)

    with whole_folder(arguments.folder) as new:
        model = convert.answering_model(classifier)
        ranges = None if representatives is None else dataset.images[representatives]
        file = convert.convert(model, arguments.format, new, ranges)
        facts = texts.model_facts(export)
        (new / "model.json").write_text(json.dumps(facts, indent=2) + "\n")
        shutil.copyfile(program.__file__, new / "run.py")
        with connection.require_mlflow():
            card = version_texts.model_card(version)
        if card:
            (new / "model_card.md").write_text(card)

        pixels = dataset.images[parity.spread(dataset.indices("test"), parity.TIMED)]
        runtime = parity.load(new, pixels[:2])
        answers = parity.compare(classifier, runtime, facts["decoding"], dataset)
        measured = parity.measure(classifier, model, runtime, file, answers, pixels, limits)
        originals = golden.write(
            new / "golden", dataset, answers.expected, facts["decoding"], limits.difference
        )
        (new / "README.md").write_text(texts.readme(export, originals))
        (new / "parity.md").write_text(texts.parity(export, answers, measured))
        print(texts.summary(measured))
        if measured.problems:
            failed = arguments.folder.with_name(f"{arguments.folder.name}.failed")
            shutil.rmtree(failed, ignore_errors=True)
            new.rename(failed)
            raise InputError(
                f"{' '.join(measured.problems)} See {failed / 'parity.md'}. Not stored in MLflow."
            )
        with connection.require_mlflow():
            try:
                where = f"in MLflow {exports.log_export(version, new, export.form)}"
            except InputError as error:  # what was exported is right all the same
                where = f"not in MLflow: {error}"
    print(f"{arguments.folder}, and {where}")
    return 0


def require_possible(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work, before any work.

    Raises:
        InputError: the folder exists, a package is missing, or the format has no INT8.
    """
    folder = arguments.folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} exists: name a new folder, or delete it.")
    if arguments.int8 and arguments.format != "litert":
        raise InputError("--int8 is only for --format litert.")
    missing = [name for name in PACKAGES[arguments.format] if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(
            f"--format {arguments.format} needs {', '.join(missing)}: "
            f"pip install -e '.[export]' in the project's folder."
        )


def require_fitting(config: Config, dataset: PreparedDataset, metadata: "Metadata") -> None:
    """Refuse a model that cannot be compared on the prepared images.

    Raises:
        InputError: the images have another form or other classes, or none is a test image.
    """
    image = config.image
    prepared = (*image.shape, image.fit, dataset.scale, dataset.classes)
    wanted = (
        metadata.height, metadata.width, metadata.channels, metadata.fit, metadata.scale,
        metadata.classes,
    )  # fmt: skip
    if prepared != wanted:
        raise InputError(
            f"The model does not fit the prepared images: height, width, channels, fit, scale and "
            f"classes are {wanted}, of build/prepare {prepared}. Prepare its dataset: "
            f"`dvc repro prepare`, with the settings of its run."
        )
    if not len(dataset.indices("test")):
        raise InputError("The dataset has no test images, so the export cannot be compared.")


def origin(config: Config, dataset: PreparedDataset, version: "Version") -> tuple[str, str]:
    """Return a sentence about the training images, and the remark on the dataset, or empty."""
    digest = version.tags.get("manifest_digest", "not known")
    if digest != dataset.digest:
        print(
            f"{version.uri} was not trained with the images in build/: digest of its manifest "
            f"{digest}, here {dataset.digest}. It is compared on the test images here.",
            file=sys.stderr,
        )
        other = (
            f"Other images than those it was compared on, which are those of "
            f"`{config.dataset.name}` (manifest {dataset.digest[:12]}); the digest of its own "
            f"manifest is {digest[:12]}. MLflow run `{version.run_id}` has it."
        )
        return other, ""
    counts = ", ".join(
        f"{number} {name}" for name, number in count_images(dataset.rows)["train"].items()
    )
    return (
        f"{counts}, of the dataset `{config.dataset.name}` (manifest {digest[:12]}); MLflow run "
        f"`{version.run_id}`."
    ), config.dataset.note or ""
