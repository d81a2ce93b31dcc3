"""promote: makes the evaluated version champion, or says why not.

Reads what evaluate wrote. To be promoted, a version needs the minimums of the settings `promotion`
and no suspected shortcut that the settings do not accept. If there is a champion, both are scored
on the current test images, and the 95% interval of the difference in accuracy must be above 0.
The version then gets the alias `champion`; it gets the alias `challenger` if only the comparison
stands in its way. Writes the decision.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from image_classifier.config.schema import Config, Promotion
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.evaluation.bootstrap import percentiles, resample
from image_classifier.project import paths
from image_classifier.project.files import new_file
from image_classifier.project.records import read_record

if TYPE_CHECKING:
    from image_classifier.tracking.registry import Version


@dataclass(frozen=True)
class Comparison:
    """Accuracies on the same test images, and the 95% bootstrap interval of their difference."""

    champion_version: str
    challenger: float
    champion: float
    difference_low: float
    difference_high: float


def promote(config: Config) -> None:
    """Decide, set the alias, and log the decision.

    Raises:
        InputError: evaluate has not run on these images, or the MLflow store lacks the version.
    """
    evaluated = read_record(
        paths.EVALUATED, "evaluate",
        name=str, version=str, manifest_digest=str, classes=list[str], shortcuts=dict[str, str],
    )  # fmt: skip
    metrics = read_record(paths.EVALUATE / paths.METRICS, "evaluate")
    if evaluated["manifest_digest"] != manifest_digest():
        raise InputError(f"{paths.MANIFEST} changed after evaluate: run `dvc repro evaluate`.")
    from image_classifier.tracking import champion, connection, registry  # import MLflow

    with connection.require_mlflow():
        challenger = registry.get_version(evaluated["name"], evaluated["version"])
        with champion.one_at_a_time(challenger.name):
            decision = decide(challenger, evaluated, metrics, config.promotion)
        new_file(paths.DECISION).write_text(json.dumps(decision, indent=2) + "\n")
        reasons = "; ".join(decision["reasons"])
        champion.log_decision(challenger, reasons or "champion", paths.DECISION)
    if not reasons:
        print(f"{challenger.uri} is champion.")
    elif decision["champion"]:
        print(
            f"{challenger.uri} is still champion, but it would not pass the gate today: {reasons}. "
            f"To restore the previous champion: image-classifier rollback"
        )
    else:
        print(f"{challenger.uri} was not promoted: {reasons}.")


def decide(
    challenger: "Version",
    evaluated: Mapping[str, Any],
    metrics: Mapping[str, Any],
    promotion: Promotion,
) -> dict[str, Any]:
    """Give a version the alias that it deserves; return the decision, ready for JSON."""
    from image_classifier.tracking import champion as aliases

    champion = aliases.current_champion(challenger.name)
    is_champion = champion is not None and champion.version == challenger.version
    if is_champion:
        champion = None  # nothing to compare with

    unfit = below_minimums(metrics, len(evaluated["classes"]), promotion)
    unfit += unaccepted_shortcuts(evaluated["shortcuts"], promotion)
    if "rolled_back" in challenger.tags:
        unfit.append(f"it was rolled back on {challenger.tags['rolled_back']}")
    reasons, comparison = list(unfit), None
    if champion and champion.tags.get("manifest_digest") != evaluated["manifest_digest"]:
        reasons.append(
            f"the champion, version {champion.version}, was trained on other data, so the two "
            f"cannot be compared. To start again without a champion, remove its alias on the "
            f"model's page in the MLflow UI"
        )
    elif champion:
        comparison = compare(challenger, champion)
        reasons += not_better(comparison)

    if not reasons:
        aliases.make_champion(challenger, champion)
    elif not unfit:
        aliases.make_challenger(challenger)
    return {
        "name": challenger.name,
        "version": challenger.version,
        "champion": is_champion or not reasons,
        "champion_before": champion.version if champion else None,
        "comparison": vars(comparison) if comparison else None,
        "reasons": reasons,
    }


def below_minimums(metrics: Mapping[str, Any], classes: int, promotion: Promotion) -> list[str]:
    """Return the minimums that the test metrics do not reach, as sentences.

    A metric that is missing, or NaN, reaches no minimum.
    """
    minimums = {"accuracy": promotion.minimum_accuracy}
    if classes == 2:
        minimums = {"sensitivity": promotion.minimum_sensitivity} | minimums
    values = {name: metrics.get(name) for name in minimums}
    return [
        f"test {name} is missing; promotion.minimum_{name}={minimums[name]:g} requires it"
        if value is None or math.isnan(value)
        else f"test {name} is {value:.4f}, below promotion.minimum_{name}={minimums[name]:g}"
        for name, value in values.items()
        if value is None or math.isnan(value) or value < minimums[name]
    ]


def unaccepted_shortcuts(found: Mapping[str, str], promotion: Promotion) -> list[str]:
    """Return as a sentence the suspected shortcuts that the settings do not accept.

    Args:
        found: For each suspicious probe, what it sees.
        promotion: The shortcuts that are accepted.
    """
    if not set(found) - set(promotion.accept_shortcuts):
        return []
    return [
        f"possible shortcut: a classifier that sees only {', or only '.join(found.values())} is "
        f"nearly as accurate as the model (to promote anyway, set "
        f"promotion.accept_shortcuts=[{','.join(found)}])"
    ]


def compare(challenger: "Version", champion: "Version") -> Comparison:
    """Score two versions on the test images of the manifest, each with its own threshold."""
    rows = [row for row in read_manifest() if row.split == "test"]
    ours, theirs = right_predictions(challenger, rows), right_predictions(champion, rows)
    difference = ours.astype(float) - theirs
    samples = resample([row.cluster for row in rows])
    low, high = percentiles([difference[sample].mean() for sample in samples])
    return Comparison(champion.version, float(ours.mean()), float(theirs.mean()), low, high)


def right_predictions(version: "Version", rows: list[ImageRow]) -> npt.NDArray[np.bool_]:
    """Return for which test images a version is right: bool array of shape (rows,)."""
    from image_classifier.tracking.verified_models import load_classifier

    classifier, _ = load_classifier(version.uri)
    outputs = []
    for path, output in classifier.probabilities_of_files([paths.RAW / row.path for row in rows]):
        if isinstance(output, UnreadableImage):
            raise InputError(f"{path} can no longer be read: run `dvc repro -f -s split`.")
        outputs.append(output)
    names = classifier.metadata.classes
    predicted = [names[choice] for choice in classifier.decide(np.stack(outputs))]
    return np.array([name == row.label for name, row in zip(predicted, rows, strict=True)])


def not_better(comparison: Comparison) -> list[str]:
    """Return as a sentence why a version does not beat the champion."""
    if comparison.difference_low > 0:
        return []
    return [
        f"it is not clearly better than the champion: accuracy {comparison.challenger:.4f}, "
        f"champion (version {comparison.champion_version}) {comparison.champion:.4f} on the same "
        f"test images. The 95% interval of the difference, {comparison.difference_low:+.4f} to "
        f"{comparison.difference_high:+.4f}, is not above 0"
    ]
