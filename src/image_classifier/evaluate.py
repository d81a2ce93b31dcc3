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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from image_classifier import paths, plots
from image_classifier.command_line import run_stage
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.evaluation import external_sets, metrics, model_card
from image_classifier.evaluation.metrics import Floats, Integers, Measured
from image_classifier.evaluation.report import confusion_counts, make_report
from image_classifier.records import read_record
from image_classifier.schema import Config

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

ROC = paths.EVALUATE / "roc.png"
CONFUSION = paths.EVALUATE / "confusion_matrix.png"
PRECISION_RECALL = paths.EVALUATE / "precision_recall.png"
CALIBRATION = paths.EVALUATE / "calibration.png"
EXPLANATIONS = paths.EVALUATE / "explanations.png"
FIGURES = [ROC, CONFUSION, PRECISION_RECALL, CALIBRATION, EXPLANATIONS]
BINS = 10  # of the calibration curve
EXPLAINED = 4  # surest hits, and as many of the worst errors


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
    from image_classifier.tracking import registry, runs, server
    from image_classifier.training import resume

    with (
        tempfile.TemporaryDirectory() as folder,
        server.answering(),
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
        draw_figures(dataset, classifier, test)

        version = registry.get_version(run["name"], run["version"])
        decided = registry.decision_tags(classifier.settings)
        if any(version.tags[name] != value for name, value in decided.items()):
            figures = {f"validation_{name}": value for name, value in validation.figures.items()}
            version = registry.register(config, dataset, model, figures)
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
            [*FIGURES, paths.PREDICTIONS, paths.ROC_POINTS, paths.REPORT, paths.MODEL_CARD],
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


def draw_figures(dataset: PreparedDataset, classifier: "Classifier", test: Measured) -> None:
    """Draw the confusion matrix, the curves, and the explained examples; write the ROC's points."""
    classes = dataset.classes
    plots.confusion_matrix(confusion_counts(test, classes), classes, CONFUSION)
    roc, precision_recall, calibration = [], [], []
    for name, actual, score in one_against_the_rest(test, classes):
        false_positive, true_positive, _ = roc_curve(actual, score)
        area = roc_auc_score(actual, score)
        roc.append((f"{name}: area {area:.3f}", false_positive, true_positive))
        precision, recall, _ = precision_recall_curve(actual, score)
        area = average_precision_score(actual, score)
        precision_recall.append((f"{name}: area {area:.3f}", recall, precision))
        observed, predicted = calibration_curve(actual, score, n_bins=BINS)
        in_bin = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], score))
        calibration.append((name, predicted, observed, in_bin[in_bin > 0]))
    plots.roc_curves(roc, ROC)
    plots.precision_recall_curves(precision_recall, PRECISION_RECALL)
    plots.calibration(calibration, CALIBRATION)
    with paths.ROC_POINTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["curve", "false_positive_rate", "true_positive_rate"])
        for name, *points in roc:
            writer.writerows((name, *map(float, point)) for point in zip(*points, strict=True))
    draw_explanations(dataset, classifier, test)


def one_against_the_rest(
    test: Measured, classes: list[str]
) -> Iterator[tuple[str, Integers, Floats]]:
    """Yield name, truth and probability of the positive class, or of each of more than two."""
    for index in [1] if len(classes) == 2 else range(len(classes)):
        yield classes[index], test.labels == index, test.probabilities[:, index]


def draw_explanations(dataset: PreparedDataset, classifier: "Classifier", test: Measured) -> None:
    """Draw where the model saw its evidence, for the surest hits and the worst errors."""
    from image_classifier.evaluation import heat_maps

    of_truth = test.probabilities[np.arange(len(test.labels)), test.labels]
    order = np.argsort(-of_truth, kind="stable")
    right = (test.predicted == test.labels)[order]
    hits, errors = order[right], order[~right][::-1]
    # as many hits of each class, the positive one first
    each = -(-EXPLAINED // len(dataset.classes))
    hits = np.concatenate(
        [hits[test.labels[hits] == index][:each] for index in reversed(range(len(dataset.classes)))]
    )
    chosen = np.concatenate([hits[:EXPLAINED], errors[:EXPLAINED]])
    rows = test.rows[chosen]
    images = dataset.images[rows]
    heat = heat_maps.heat_maps(classifier, images, test.predicted[chosen])
    plots.explanations(
        images,
        np.stack(
            [heat_maps.overlay(image, map_) for image, map_ in zip(images, heat, strict=True)]
        ),
        [
            f"{'hit' if test.predicted[i] == test.labels[i] else 'ERROR'}: "
            f"{dataset.classes[test.labels[i]]}, called {dataset.classes[test.predicted[i]]} "
            f"with {test.probabilities[i, test.predicted[i]]:.3f}\n"
            f"{Path(dataset.rows[row].path).name}"
            for i, row in zip(chosen, rows, strict=True)
        ],
        f"Surest hits, and the worst of {len(errors)} errors: red is what spoke for the answer",
        EXPLANATIONS,
    )


if __name__ == "__main__":
    run_stage(evaluate)
