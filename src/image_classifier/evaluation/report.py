"""All that is known of a model, ready for JSON: the model card is made of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import confusion_matrix

from image_classifier import paths
from image_classifier.data.dataset import PreparedDataset
from image_classifier.evaluation import external_sets, metrics, probes
from image_classifier.evaluation.metrics import Integers, Measured
from image_classifier.schema import Config

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier


def make_report(
    config: Config,
    dataset: PreparedDataset,
    classifier: "Classifier",
    validation: Measured,
    test: Measured,
) -> dict[str, Any]:
    """Return all that is known of a model, ready for JSON: the model card is made of it."""
    units = [dataset.rows[row].unit for row in test.rows]
    found = probes.run(dataset, test.figures["accuracy"], config.evaluation.shortcut_share)
    split = json.loads(paths.SPLIT.read_text())
    return {
        "dataset": config.dataset.name,
        "note": config.dataset.note,
        "source": dataset.source,
        "manifest_digest": dataset.digest,
        "classes": dataset.classes,
        "counts": split["counts"],
        "left_out": split["left_out"],
        "copies": split["copies"] | {"distance": config.split.copy_distance},
        "model": config.model.name,
        "parameters": classifier.model.count_params(),
        "image_shape": config.image.shape,
        "threshold": classifier.settings.threshold,
        "threshold_rule": config.evaluation.threshold,
        "temperature": classifier.settings.temperature,
        "validation": validation.figures,
        "test": with_intervals(test, units),
        "confusion": confusion_counts(test, dataset.classes).tolist(),
        "slices": slices(dataset, test),
        "probes": [asdict(probe) for probe in found],
        "probe_descriptions": probes.DESCRIPTIONS,
        "shortcuts": [probe.name for probe in found if probe.suspicious],
        "external": external_sets.measure_all(config, dataset, classifier, test),
    }


def with_intervals(measured: Measured, groups: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return every figure with its 95% bootstrap interval; None where it is not defined."""
    ends = metrics.intervals(measured, groups)
    return {
        name: {
            key: None if np.isnan(number) else number
            for key, number in zip(("value", "low", "high"), (value, *ends[name]), strict=True)
        }
        for name, value in measured.figures.items()
    }


def slices(dataset: PreparedDataset, test: Measured) -> dict[str, dict[str, float]]:
    """Return the figures of each source's test images, where the manifest has sources."""
    sources = np.array([dataset.rows[row].source for row in test.rows])
    if not any(sources):
        return {}
    result = {}
    for source in np.unique(sources):
        chosen = sources == source
        figures = metrics.classification_metrics(
            test.labels[chosen], test.probabilities[chosen], test.predicted[chosen]
        )
        known = {name: value for name, value in figures.items() if not np.isnan(value)}
        result[str(source) or "unknown"] = {"images": int(chosen.sum()), **known}
    return result


def confusion_counts(test: Measured, classes: list[str]) -> Integers:
    """Return the confusion matrix: int array of shape (classes, classes), row true."""
    matrix: Integers = confusion_matrix(test.labels, test.predicted, labels=range(len(classes)))
    return matrix
