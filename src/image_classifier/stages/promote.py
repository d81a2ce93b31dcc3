"""promote: makes the evaluated version champion, or says why not.

Reads what evaluate wrote. To be promoted, a version must be better than chance and reach the
minimums of the settings `promotion`, without a suspected shortcut that the settings do not accept.
If there is a champion, both are scored on the current test images that neither has seen, and the
95% interval of the difference must be above 0. The version then gets the alias `champion`; it gets
the alias `challenger` if only the comparison stands in its way. Writes the decision.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from image_classifier.config.schema import Config, ProbeName, Promotion
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.evaluation.comparison import (
    FEWEST,
    Comparison,
    difference,
    read_pairs,
    unseen,
)
from image_classifier.project import paths
from image_classifier.project.files import new_file
from image_classifier.project.records import read_record

if TYPE_CHECKING:
    from image_classifier.tracking.registry import Version


def promote(config: Config) -> None:
    """Decide, set the alias, and log the decision.

    Raises:
        InputError: evaluate has not run on these images, or the MLflow store lacks the version.
    """
    evaluated = read_record(
        paths.EVALUATED, "evaluate",
        name=str, version=str, manifest_digest=str, classes=list[str], shortcuts=dict[str, str],
        intervals=dict[str, Any], chance=dict[str, float], recalls=dict[str, Any],
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
    if decision["comparison"]:
        print(compared(decision["comparison"]))
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

    unfit = not_above_chance(evaluated, promotion.metric)
    unfit += below_minimums(metrics, len(evaluated["classes"]), promotion)
    unfit += unrecognised_classes(evaluated["recalls"], promotion.minimum_recall)
    unfit += unaccepted_shortcuts(evaluated["shortcuts"], promotion)
    if "rolled_back" in challenger.tags:
        unfit.append(f"it was rolled back on {challenger.tags['rolled_back']}")
    reasons, comparison = list(unfit), None
    if champion:
        rows, test_images, reason = comparable_images(champion, evaluated)
        if not reason:
            try:
                comparison = compare(challenger, champion, rows, test_images, promotion.metric)
                reasons += not_better(comparison)
            except UnreadableImage as error:
                reason = f"it cannot read {error}"
        if reason:
            reasons.append(
                f"it cannot be compared with the champion, version {champion.version}: {reason}. "
                f"To start again without a champion, remove its alias on the model's page in the "
                f"MLflow UI"
            )

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


def not_above_chance(evaluated: Mapping[str, Any], metric: str) -> list[str]:
    """Return as a sentence that the interval of the metric does not lie above chance."""
    found, chance = evaluated["intervals"].get(metric), evaluated["chance"].get(metric)
    if not found or chance is None or found["low"] is None or math.isnan(found["low"]):
        return [f"test {metric} has no 95% interval; promotion.metric={metric} requires it"]
    if found["low"] > chance:
        return []
    return [
        f"test {metric} is {found['value']:.4f}, with the 95% interval {found['low']:.4f} to "
        f"{found['high']:.4f}: not above chance, {chance:.4f} (promotion.metric={metric})"
    ]


def unrecognised_classes(recalls: Mapping[str, float | None], minimum: float) -> list[str]:
    """Return as a sentence the classes whose recall is too small; a missing one is too small."""
    low = {
        label: "missing" if value is None else f"{value:.4f}"
        for label, value in recalls.items()
        if value is None or not value >= minimum
    }
    if not low:
        return []
    named = ", ".join(f"{label} {value}" for label, value in low.items())
    return [f"test recall is below promotion.minimum_recall={minimum:g}: {named}"]


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
        found: For each suspicious probe what it sees, and for each suspicious test of the model
            what it found.
        promotion: The shortcuts that are accepted.
    """
    if not set(found) - set(promotion.accept_shortcuts):
        return []
    probes = [name for name in found if name in get_args(ProbeName)]
    tests = [f"test {name}: {what}" for name, what in found.items() if name not in probes]
    suspicions = tests
    if probes:
        suspicions = [
            f"the balanced accuracy of the probe {' and of the probe '.join(probes)} is "
            f"suspiciously high, compared with the model's",
            *tests,
        ]
    return [
        f"possible shortcut: {'; '.join(suspicions)} (see the model card). To promote anyway, set "
        f"promotion.accept_shortcuts=[{','.join(found)}]"
    ]


def comparable_images(
    champion: "Version", evaluated: Mapping[str, Any]
) -> tuple[list[ImageRow], int, str]:
    """Return the test images that a champion has not seen.

    Returns:
        These images, the number of all test images, and why the two versions cannot be compared,
        or an empty text.
    """
    from image_classifier.tracking import runs

    rows = read_manifest()
    test = [row for row in rows if row.split == "test"]
    if champion.tags.get("manifest_digest") == evaluated["manifest_digest"]:
        return test, len(test), ""
    try:
        # with training.start_from the champion knows images of other versions, too. Of the
        # challenger this needs no check: train refuses to start from a version that has seen one
        # of these test images.
        seen = runs.seen_by(champion.run_id)
    except InputError as error:  # also of an earlier release: never compared with too many images
        return [], len(test), f"the images that it was trained with are not known ({error})"
    left = unseen(rows, seen, read_pairs(), evaluated["duplicate_distance"])
    missing = sorted(set(evaluated["classes"]) - {row.label for row in left})
    if len(left) == len(test) or (len(left) >= FEWEST and not missing):
        return left, len(test), ""
    lacks = f", and none of {', '.join(missing)}" if missing else ""
    return (
        left,
        len(test),
        f"the champion has seen {len(test) - len(left)} of the {len(test)} test images, or near "
        f"duplicates of them. {len(left)} are left{lacks}; {FEWEST} are needed, with some of "
        f"every class. Add test images",
    )


def compare(
    challenger: "Version",
    champion: "Version",
    rows: Sequence[ImageRow],
    test_images: int,
    metric: str,
) -> Comparison:
    """Score two versions on the same test images, each with its own threshold.

    Raises:
        InputError: the challenger cannot read an image, so the file changed since `split`.
        UnreadableImage: the champion cannot, e.g. because it has never seen more than 8 bits.
    """
    try:
        ours = predicted_classes(challenger, rows)
    except UnreadableImage as error:
        raise InputError(f"{error}: run `dvc repro -f -s split`.") from None
    scores = difference(metric, rows, ours, predicted_classes(champion, rows))
    return Comparison(champion.version, metric, len(rows), test_images - len(rows), *scores)


def predicted_classes(version: "Version", rows: Sequence[ImageRow]) -> list[str]:
    """Return the class that a version predicts for each image.

    Raises:
        UnreadableImage: it cannot read an image; the text names it.
    """
    from image_classifier.tracking.verified_models import load_classifier

    classifier, _ = load_classifier(version.uri)
    outputs = []
    for path, output in classifier.outputs_of_files([paths.RAW / row.path for row in rows]):
        if isinstance(output, UnreadableImage):
            raise UnreadableImage(f"{path} ({output})")
        outputs.append(output.probabilities)
    names = classifier.metadata.classes
    return [names[choice] for choice in classifier.decide(np.stack(outputs))]


def compared(comparison: Mapping[str, Any]) -> str:
    """Return on which images two versions were compared, as a sentence."""
    text = (
        f"Compared with the champion, version {comparison['champion_version']}, on "
        f"{comparison['images']} test images"
    )
    if comparison["left_out"]:
        text += (
            f"; {comparison['left_out']} others are left out, because the champion has seen them "
            f"or near duplicates of them"
        )
    return f"{text}."


def not_better(comparison: Comparison) -> list[str]:
    """Return as a sentence why a version does not beat the champion."""
    if comparison.difference_low > 0:
        return []
    return [
        f"it is not clearly better than the champion: {comparison.metric} "
        f"{comparison.challenger:.4f}, champion (version {comparison.champion_version}) "
        f"{comparison.champion:.4f} on the same {comparison.images} test images. The 95% interval "
        f"of the difference, {comparison.difference_low:+.4f} to "
        f"{comparison.difference_high:+.4f}, is not above 0"
    ]
