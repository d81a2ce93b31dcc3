"""The report: everything that is known about a model, ready for JSON. The model card shows it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix

from image_classifier.config.schema import Config, PretrainedModel
from image_classifier.data.dataset import PreparedDataset
from image_classifier.evaluation import bootstrap, external_sets, metrics, probes, shortcut_tests
from image_classifier.evaluation.power import describe_power
from image_classifier.evaluation.predictions import Predictions
from image_classifier.project import paths
from image_classifier.project.records import read_record

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier


def make_report(
    config: Config,
    dataset: PreparedDataset,
    classifier: "Classifier",
    validation: Predictions,
    test: Predictions,
) -> dict[str, Any]:
    """Return everything that is known about a model, ready for JSON."""
    found = probes.run_probes(
        dataset, test.metrics["balanced_accuracy"], config.evaluation.shortcut_threshold
    )
    tests = shortcut_tests.run_shortcut_tests(
        dataset, classifier, test, config.evaluation.shortcut_threshold
    )
    fetched = read_record(paths.FETCHED, "fetch", unused=dict[str, int], notes=list[str])
    split = read_record(
        paths.SPLIT, "split",
        counts=dict[str, Any], skipped=int, duplicates=dict[str, Any], remarks=list[str],
        power=dict[str, Any],
    )  # fmt: skip
    prepared = read_record(paths.PREPARED, "prepare", remarks=list[str])
    return {
        "dataset": config.dataset.name,
        "note": config.dataset.note,
        "source": dataset.source,
        "manifest_digest": dataset.digest,
        "classes": dataset.classes,
        "counts": split["counts"],
        "unused": fetched["unused"],
        "skipped": split["skipped"],
        "remarks": [*fetched["notes"], *split["remarks"], *prepared["remarks"]],
        "duplicates": split["duplicates"]
        | {
            "distance": config.split.duplicate_distance,
            "without_group": sum(not row.group for row in dataset.rows),
        },
        "model": classifier.model.name,
        "backbone": backbone(config),
        "start_from": read_record(paths.TRAIN / paths.RUN, "train").get("start_from"),
        "parameters": classifier.model.count_params(),
        "image_shape": dataset.images.shape[1:],
        "fit": config.image.fit,
        "threshold": classifier.metadata.threshold,
        "threshold_rule": config.evaluation.threshold,
        "temperature": classifier.metadata.temperature,
        "flip": classifier.metadata.flip,
        "validation": validation.metrics,
        "test": with_intervals(test),
        "chance": metrics.chance(test.labels, test.predicted, len(dataset.classes)),
        "power": describe_power(
            len(test.rows),
            split["power"]["independent_test_images"],
            split["power"]["smallest_differences"],
        ),
        "classes_test": metrics_by_class(dataset.classes, test),
        "confusion": confusion_matrix(
            test.labels, test.predicted, labels=range(len(dataset.classes))
        ).tolist(),
        "sources": metrics_by_source(dataset, test),
        "probes": [asdict(probe) for probe in found],
        "shortcut_tests": [asdict(one) for one in tests],
        "probe_descriptions": probes.DESCRIPTIONS | shortcut_tests.DESCRIPTIONS,
        "shortcuts": [
            *(probe.name for probe in found if probe.suspicious),
            *(one.name for one in tests if one.suspicious),
        ],
        "external": external_sets.measure_all(config, dataset, classifier, test),
    }


def backbone(config: Config) -> dict[str, str] | None:
    """Return the pretrained backbone, its weights, and their license; None for other models."""
    if not isinstance(config.model, PretrainedModel):
        return None
    run = read_record(paths.TRAIN / paths.RUN, "train")
    return {
        "name": config.model.backbone,
        # a .keras file has its own weights
        "weights": "" if config.model.is_file else str(config.model.weights),
        "sha256": run.get("backbone_sha256", ""),
        "license": run.get("backbone_license", ""),
        "remark": run.get("backbone_remark", ""),
    }


def with_intervals(predictions: Predictions) -> dict[str, dict[str, float | None]]:
    """Return every metric with its 95% interval; None where the labels do not define it."""
    ends = bootstrap.intervals(predictions)
    return {
        name: {
            key: None if np.isnan(number) else number
            for key, number in zip(("value", "low", "high"), (value, *ends[name]), strict=True)
        }
        for name, value in predictions.metrics.items()
    }


def metrics_by_class(classes: list[str], test: Predictions) -> dict[str, dict[str, Any]]:
    """Return precision, recall and F1 of each class with 95% intervals; None if undefined."""
    values = metrics.class_metrics(test.labels, test.predicted, len(classes))
    ends = bootstrap.class_intervals(test)
    return {
        label: {"images": int(np.sum(test.labels == index))}
        | {
            name: {
                key: None if np.isnan(number) else float(number)
                for key, number in zip(
                    ("value", "low", "high"), (values[name][index], *ends[name][index]), strict=True
                )
            }
            for name in values
        }
        for index, label in enumerate(classes)
    }


def metrics_by_source(dataset: PreparedDataset, test: Predictions) -> dict[str, dict[str, float]]:
    """Return the metrics of the test images of each source, if the manifest has sources."""
    sources = np.array([dataset.rows[row].source for row in test.rows])
    if not any(sources):
        return {}
    result = {}
    for source in np.unique(sources):
        chosen = sources == source
        values = metrics.classification_metrics(
            test.labels[chosen], test.probabilities[chosen], test.predicted[chosen]
        )
        known = {name: value for name, value in values.items() if not np.isnan(value)}
        result[str(source) or "unknown"] = {"images": int(chosen.sum()), **known}
    return result
