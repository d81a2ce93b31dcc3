"""evaluate: chooses the decision threshold, measures the model on the test images, registers it.

Reads the trained model, the prepared images, their files and the external sets. Writes metrics with
intervals, predictions, plots, reasons to doubt the metrics, a report and a model card, and logs
all of it to the training's MLflow run.

A registered version never changes: with another threshold or temperature the same weights are
registered again, as a new version.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from image_classifier import known_images
from image_classifier.config.schema import Config
from image_classifier.data.dataset import load_prepared
from image_classifier.data.findings import count_findings, read_findings, write_findings
from image_classifier.data.manifest import test_digest
from image_classifier.evaluation import (
    external_sets,
    label_errors,
    model_card,
    plots,
    report_page,
    shortcut_tests,
)
from image_classifier.evaluation.caveats import find_caveats
from image_classifier.evaluation.doubt import check_unknown, know_images, measure_doubt
from image_classifier.evaluation.metrics import headline
from image_classifier.evaluation.predictions import (
    predict_split,
    predictions_digest,
    write_predictions,
)
from image_classifier.evaluation.report import make_report
from image_classifier.evaluation.spread import spread
from image_classifier.evaluation.threshold import choose_threshold
from image_classifier.evaluation.weak_spots import find_weak_spots
from image_classifier.project import paths
from image_classifier.project.files import new_file, whole_file
from image_classifier.project.records import read_record
from image_classifier.training import resume

UNUSUAL = re.compile(r"[^-\w.]+")  # characters that the name of an MLflow metric may not have


def evaluate(config: Config) -> None:
    """Measure build/train on the test images and the external sets, and register it.

    Raises:
        InputError: a stage has not run, or the MLflow store lacks the run.
    """
    dataset = load_prepared(config)
    external_sets.check(config)
    check_unknown(dataset.classes, config)
    run = read_record(paths.TRAIN / paths.RUN, "train", run_id=str, training_key=str)
    if "batch_size" in run:  # training.batch_size=auto found it
        found = config.training.with_batch_size(run["batch_size"])
        config = config.model_copy(update={"training": found})
    if "start_from" in run:  # the number of the version, in place of an alias
        found = config.training.model_copy(update={"start_from": run["start_from"]["uri"]})
        config = config.model_copy(update={"training": found})

    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.classifier import Classifier, write_metadata
    from image_classifier.tracking import connection, ledger, out_of_fold, registry, runs

    with (
        tempfile.TemporaryDirectory() as folder,
        connection.require_mlflow(to_write=True),
        runs.open_run(run["run_id"]),
    ):
        # without the mode of the files: with some of DVC's cache types they are read-only
        model = Path(folder) / paths.MODEL
        shutil.copytree(paths.TRAIN / paths.MODEL, model, copy_function=shutil.copyfile)
        classifier, validation = choose_threshold(
            Classifier.load(model), dataset, config.evaluation
        )
        write_metadata(model, classifier.metadata)
        test = predict_split(classifier, dataset, "test")
        remember = config.evaluation.remember_images and "start_from" in run
        inherited = runs.seen_by(run["start_from"]["run_id"]) if remember else []
        known = know_images(config, dataset, classifier, validation, test, inherited)
        known_images.write(model, known)
        report = make_report(config, dataset, classifier, validation, test)
        report["doubt"] = measure_doubt(classifier, known, validation, test)
        report["weak_spots"] = asdict(find_weak_spots(dataset, classifier, known.train, test))

        version = registry.register(
            config, dataset, model, headline(validation.metrics, "validation")
        )
        # before anything of the test images is stored or shown: a kill loses no look
        looked = ledger.mark_evaluation(
            version, test_digest(dataset.rows), predictions_digest(test)
        ).record()

        new_file(paths.EVALUATE / paths.METRICS).write_text(
            json.dumps(test.metrics, indent=2) + "\n"
        )
        write_predictions(dataset, test, paths.PREDICTIONS)
        plots.plot_all(dataset, classifier, test)

        report |= {"version": version.uri, "run_id": version.run_id, "ledger": looked}
        report["variation"] = variation(version.run_id)
        unseen = out_of_fold.unseen_predictions(version.run_id, dataset, validation, test)
        report["label_errors"], suspects = label_errors.write(
            dataset, unseen, paths.SUSPECTED_LABELS
        )
        findings = [*read_findings(), *suspects]
        with whole_file(paths.ALL_FINDINGS) as file:
            write_findings(findings, file)
        report["findings"] = count_findings(findings)
        report["caveats"] = [asdict(caveat) for caveat in find_caveats(report)]
        new_file(paths.REPORT).write_text(json.dumps(report, indent=2) + "\n")
        report_page.write(report, dataset, classifier, test, findings)
        card = model_card.write(report)
        new_file(paths.MODEL_CARD).write_text(card)

        tags = {
            "shortcuts": ", ".join(report["shortcuts"]) or "none found",
            "evaluation.threshold": version.tags["threshold"],
            "evaluation.temperature": version.tags["temperature"],
            "evaluation.test_time_augmentation": version.tags["test_time_augmentation"],
        }
        runs.log_settings(config)
        validated = {f"validation_{name}": value for name, value in validation.metrics.items()}
        runs.log_metrics(validated | measured(report) | class_metrics(report))
        # what depends on the threshold is a tag: MLflow keeps the first value of a parameter
        runs.log_tags(tags)
        registry.tag_version(version, tags | registry.texts(headline(test.metrics, "test")))
        registry.set_description(version, card)
        runs.log_files(
            [
                *plots.FILES, paths.PREDICTIONS, paths.ROC_POINTS, paths.SUSPECTED_LABELS,
                paths.ALL_FINDINGS, paths.REPORT, paths.REPORT_PAGE, paths.MODEL_CARD,
            ],
            "evaluation",
        )  # fmt: skip

    record = {
        "name": version.name,
        "version": version.version,
        "run_id": version.run_id,
        "manifest_digest": dataset.digest,
        "classes": dataset.classes,
        "shortcuts": suspected(report),
        "intervals": report["test"],
        "chance": report["chance"],
        "duplicate_distance": config.split.duplicate_distance,
        "recalls": {
            label: entry["recall"]["value"] for label, entry in report["classes_test"].items()
        },
        "recall_intervals": {
            label: entry["recall"] for label, entry in report["classes_test"].items()
        },
        "ledger": looked,
        "findings": report["findings"],
    }
    new_file(paths.EVALUATED).write_text(json.dumps(record, indent=2) + "\n")
    resume.finish(run["training_key"])  # DVC has saved the training, so nothing can be lost
    print(model_card.summary(report))


def variation(run_id: str) -> dict[str, Any]:
    """Return how much the validation result of a run's settings varies, as far as it was measured.

    Returns:
        `folds` and `seeds`: each the spread in words, or None where fewer than two were trained.
    """
    from image_classifier.tracking import repeats

    results = repeats.same_recipe(run_id, "validation_balanced_accuracy")
    found: dict[str, Any] = {"folds": None, "seeds": None}
    for name, chosen in (
        ("folds", [result for result in results if result.fold is not None]),
        ("seeds", [result for result in results if result.fold is None]),
    ):
        if len(chosen) > 1:
            found[name] = str(spread(chosen))
    return found


def suspected(report: Mapping[str, Any]) -> dict[str, str]:
    """Return for each suspected shortcut what the probe sees, or what the test found."""
    found = {
        test["name"]: shortcut_tests.short_sentence(test)
        for test in report["shortcut_tests"]
        if test["suspicious"]
    }
    return {
        name: found.get(name, report["probe_descriptions"][name]).rstrip(".")
        for name in report["shortcuts"]
    }


def measured(report: Mapping[str, Any]) -> dict[str, float]:
    """Return what was measured on the test images and the external sets as MLflow metrics."""
    return (
        {f"test_{name}": entry["value"] for name, entry in report["test"].items()}
        | {
            "test_coverage": report["doubt"]["covered"]["value"],
            "test_unusual": report["doubt"]["unusual"]["value"],
        }
        | {
            f"probe_{probe['name']}_balanced_accuracy": probe["balanced_accuracy"]
            for probe in report["probes"]
        }
        | {
            f"shortcut_{test['name']}_{metric}": test[metric]["value"]
            for test in report["shortcut_tests"]
            for metric in ("balanced_accuracy", "roc_auc")
            if test[metric] and test[metric]["value"] is not None
        }
        | {
            f"external_{name}_accuracy": entry["accuracy"]
            for name, entry in report["external"].items()
        }
    )


def class_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return precision, recall and F1 of each class as MLflow metrics."""
    labels = metric_names(list(report["classes_test"]))
    return {
        f"test_{name}_of_{labels[label]}": entry[name]["value"]
        for label, entry in report["classes_test"].items()
        for name in ("precision", "recall", "f1")
        if entry[name]["value"] is not None
    }


def metric_names(classes: Sequence[str]) -> dict[str, str]:
    """Return for each class its part of the name of an MLflow metric, which allows few characters.

    If two would have the same name, or one would be a dot, all get their number in front.
    """
    names = [UNUSUAL.sub("_", label)[:100] for label in classes]
    # some databases do not tell `a` from `A`; a dot would be a folder
    if len({name.casefold() for name in names} - {".", ".."}) < len(names):
        names = [f"{number}_{name}" for number, name in enumerate(names)]
    return dict(zip(classes, names, strict=True))
