"""evaluate: measures the best checkpoint on the test images.

Takes the trained classifier, the prepared test images and the decision threshold. Gives metrics,
predictions, a confusion matrix and ROC curves, and logs them to the training's MLflow run. A
registered version never changes: where the threshold is another than the one it was registered
with, the same weights are registered again.
"""

import csv
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from image_classifier import paths, plots
from image_classifier.command_line import run_stage
from image_classifier.config import Config
from image_classifier.dataset import ImageRow, load_prepared
from image_classifier.errors import InputError
from image_classifier.metrics import Measured, measure


def evaluate(config: Config) -> None:
    """Measure build/train on the test images, and log that.

    Raises:
        InputError: a stage has not run, or the MLflow store lacks the run.
    """
    dataset = load_prepared(config)
    run_file = paths.TRAIN / paths.RUN
    if not run_file.is_file():
        raise InputError(f"{run_file} not found: run `dvc repro train`.")
    run = json.loads(run_file.read_text())

    # TensorFlow and MLflow take seconds to import: bad input does without
    from image_classifier import tracking
    from image_classifier.classifier import Classifier, change_threshold

    with tempfile.TemporaryDirectory() as folder, tracking.evaluation_run(run["run_id"]):
        model = Path(shutil.copytree(paths.TRAIN / paths.MODEL, folder, dirs_exist_ok=True))
        change_threshold(model, config.evaluation.threshold)
        classifier = Classifier.load(model)
        test = measure(classifier, dataset, "test")
        test_rows = [dataset.rows[row] for row in test.rows]

        paths.EVALUATE.mkdir(parents=True, exist_ok=True)
        (paths.EVALUATE / paths.METRICS).write_text(json.dumps(test.figures, indent=2) + "\n")
        write_predictions(test_rows, dataset.classes, test)
        draw_confusion_matrix(dataset.classes, test)
        draw_roc_curves(dataset.classes, test)

        version = tracking.get_version(run["name"], run["version"])
        if version.tags["threshold"] != f"{config.evaluation.threshold:g}":
            validation = measure(classifier, dataset, "validation")
            version = tracking.register(config, dataset, model, validation.figures)
        digest = rows_digest(test_rows)
        tracking.log_evaluation(version, test.figures, digest, config.evaluation.threshold)
        tracking.describe(version, description(config, test))
        tracking.log_files(
            [paths.PREDICTIONS, paths.CONFUSION, paths.ROC, paths.ROC_POINTS], "evaluation"
        )

    record = {"name": version.name, "version": version.version, "test_rows": digest}
    paths.EVALUATED.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{version.uri}: {description(config, test)}")


def description(config: Config, test: Measured) -> str:
    """Return the test figures as a sentence, with the dataset's note."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in test.figures.items())
    text = f"{len(test.rows)} test images of {config.dataset.name}: {figures}."
    return f"{text} {config.dataset.note or ''}".strip()


def write_predictions(rows: list[ImageRow], classes: list[str], test: Measured) -> None:
    """Write one row per test image: path, true class, answer, and every class's probability."""
    with paths.PREDICTIONS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "actual", "predicted", *(f"p_{name}" for name in classes)])
        for row, answer, outputs in zip(rows, test.predicted, test.probabilities, strict=True):
            writer.writerow([row.path, row.label, classes[answer], *map(float, outputs)])


def draw_confusion_matrix(classes: list[str], test: Measured) -> None:
    """Draw how often each class got each answer."""
    matrix = confusion_matrix(test.labels, test.predicted, labels=range(len(classes)))
    plots.confusion_matrix(matrix, classes, paths.CONFUSION)


def draw_roc_curves(classes: list[str], test: Measured) -> None:
    """Write and draw the ROC curve of the positive class, or of each of more than two classes."""
    curves = []
    for index in [1] if len(classes) == 2 else range(len(classes)):
        actual, score = test.labels == index, test.probabilities[:, index]
        false_positive, true_positive, _ = roc_curve(actual, score)
        name = f"{classes[index]}: area {roc_auc_score(actual, score):.3f}"
        curves.append((name, false_positive, true_positive))
    with paths.ROC_POINTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["curve", "false_positive_rate", "true_positive_rate"])
        for name, *points in curves:
            writer.writerows((name, *map(float, point)) for point in zip(*points, strict=True))
    plots.roc_curves(curves, paths.ROC)


def rows_digest(rows: list[ImageRow]) -> str:
    """Return a SHA-256 of images and labels: two versions compare only on the same ones."""
    lines = sorted(f"{row.sha256} {row.label}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


if __name__ == "__main__":
    run_stage(evaluate)
