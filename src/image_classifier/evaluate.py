"""evaluate: measures the best checkpoint on the test images, and how far to believe that.

Takes the trained classifier, the prepared images, the external sets, and how to decide. Gives
metrics with intervals, predictions, figures, probes for shortcuts, external results, explained
examples, and a model card; all of it into the training's MLflow run. A registered version never
changes: where another threshold or temperature comes out than it was registered with, the same
weights are registered again.
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_classifier import paths
from image_classifier.command_line import run_stage
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.evaluation import external_sets, figures, metrics, model_card
from image_classifier.evaluation.metrics import Measured
from image_classifier.evaluation.report import make_report
from image_classifier.records import read_record
from image_classifier.schema import Config


def evaluate(config: Config) -> None:
    """Measure build/train on the test images and the external sets, and log that.

    Raises:
        InputError: a stage has not run, or the MLflow store lacks the run.
    """
    dataset = load_prepared(config)
    external_sets.check(config)
    run = read_record(
        paths.TRAIN / paths.RUN, "train", run_id=str, name=str, version=str, unfinished=str
    )

    # TensorFlow and MLflow take seconds to import: bad input does without
    from image_classifier.classifier import Classifier, write_settings
    from image_classifier.evaluation import decision
    from image_classifier.tracking import connection, registry, runs
    from image_classifier.training import resume

    with (
        tempfile.TemporaryDirectory() as folder,
        connection.answering(),
        runs.open_run(run["run_id"]),
    ):
        model = Path(shutil.copytree(paths.TRAIN / paths.MODEL, folder, dirs_exist_ok=True))
        classifier = decision.with_decision(Classifier.load(model), dataset, config.evaluation)
        write_settings(model, classifier.settings)
        validation = metrics.measure(classifier, dataset, "validation")
        test = metrics.measure(classifier, dataset, "test")
        report = make_report(config, dataset, classifier, validation, test)

        paths.EVALUATE.mkdir(parents=True, exist_ok=True)
        (paths.EVALUATE / paths.METRICS).write_text(json.dumps(test.figures, indent=2) + "\n")
        write_predictions(dataset, test)
        figures.draw(dataset, classifier, test)

        version = registry.get_version(run["name"], run["version"])
        decided = registry.decision_tags(classifier.settings)
        if any(version.tags[name] != value for name, value in decided.items()):
            validated = {
                f"validation_{name}": number for name, number in validation.figures.items()
            }
            version = registry.register(config, dataset, model, validated)
        report |= {"version": version.uri, "run_id": version.run_id}
        paths.REPORT.write_text(json.dumps(report, indent=2) + "\n")
        card = model_card.write(report)
        paths.MODEL_CARD.write_text(card)

        tags = {
            "shortcuts": ", ".join(report["shortcuts"]) or "none found",
            **{f"evaluation.{name}": value for name, value in decided.items()},
        }
        runs.log_settings(config)
        registry.log_evaluation(version, headline_metrics(report), tags)
        registry.describe(version, card)
        runs.log_files(
            [*figures.FILES, paths.PREDICTIONS, paths.ROC_POINTS, paths.REPORT, paths.MODEL_CARD],
            "evaluation",
        )

    record = {
        "name": version.name,
        "version": version.version,
        "manifest_digest": dataset.digest,
        "shortcuts": report["shortcuts"],
    }
    paths.EVALUATED.write_text(json.dumps(record, indent=2) + "\n")
    resume.discard(run["unfinished"])  # DVC has the training's outputs now
    print(model_card.summary(report))


def headline_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that MLflow gets as metrics."""
    return (
        {f"test_{name}": entry["value"] for name, entry in report["test"].items()}
        | {f"probe_{probe['name']}_accuracy": probe["accuracy"] for probe in report["probes"]}
        | {
            f"external_{name}_accuracy": entry["accuracy"]
            for name, entry in report["external"].items()
        }
    )


def write_predictions(dataset: PreparedDataset, test: Measured) -> None:
    """Write one row per test image: path, true class, answer, and every class's probability."""
    classes = dataset.classes
    with paths.PREDICTIONS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "actual", "predicted", *(f"p_{name}" for name in classes)])
        for row, answer, outputs in zip(test.rows, test.predicted, test.probabilities, strict=True):
            image = dataset.rows[row]
            writer.writerow([image.path, image.label, classes[answer], *map(float, outputs)])


if __name__ == "__main__":
    run_stage(evaluate)
