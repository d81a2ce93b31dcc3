"""promote: makes the evaluated version champion, or says why not.

Reads what evaluate wrote. To be promoted, a version must be better than chance and reach the
minimums of the settings `promotion`, without a suspected shortcut that the settings do not accept.
If there is a champion, both are scored on the current test images that neither has seen, and the
interval of the difference must be above 0. The intervals are wider the more versions were evaluated
on these test images before (`evaluation.looks`). The version then gets the alias `champion`; it
gets the alias `challenger` if only the comparison stands in its way. Writes the decision.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from image_classifier.config.schema import Config, ProbeName, Promotion
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest, test_digest
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.evaluation import looks
from image_classifier.evaluation.bootstrap import certain_low
from image_classifier.evaluation.comparison import (
    FEWEST,
    Comparison,
    difference,
    read_pairs,
    unseen,
)
from image_classifier.evaluation.power import images_needed
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
        name=str, version=str, run_id=str, manifest_digest=str, classes=list[str],
        shortcuts=dict[str, str],
        intervals=dict[str, Any], chance=dict[str, float], recalls=dict[str, Any],
        recall_intervals=dict[str, dict[str, Any]], findings=dict[str, dict[str, int]],
    )  # fmt: skip
    metrics = read_record(paths.EVALUATE / paths.METRICS, "evaluate")
    if evaluated["manifest_digest"] != manifest_digest():
        raise InputError(f"{paths.MANIFEST} changed after evaluate: run `dvc repro evaluate`.")
    from image_classifier.tracking import champion, connection  # import MLflow

    with connection.require_mlflow(to_write=True):
        challenger = evaluated_version(evaluated)
        with champion.one_at_a_time(challenger.name):
            decision = decide(challenger, evaluated, metrics, config.promotion)
        new_file(paths.DECISION).write_text(json.dumps(decision, indent=2) + "\n")
        reasons = "; ".join(decision["reasons"])
        champion.log_decision(challenger, reasons or "champion", paths.DECISION)
    if decision["comparison"]:
        print(compared(decision["comparison"]))
    if due := looks.due(decision["ledger"]):
        print(due)
    if decision["findings"]:
        print(odd_test_images(decision["findings"]))
    if not reasons:
        print(f"{challenger.uri} is champion.")
    elif decision["champion"]:
        print(
            f"{challenger.uri} is still champion, but it would not pass the gate today: {reasons}. "
            f"To restore the previous champion: image-classifier rollback"
        )
    else:
        print(f"{challenger.uri} was not promoted: {reasons}.")


def evaluated_version(evaluated: Mapping[str, Any]) -> "Version":
    """Return the version that was evaluated.

    Raises:
        InputError: it, its files or its run were deleted.
    """
    from image_classifier.tracking import registry, runs

    evaluate_again = "`dvc repro -f -s evaluate` registers the model of build/train again."
    try:
        version = registry.get_version(evaluated["name"], evaluated["version"])
    except InputError as error:
        raise InputError(f"{error} {evaluate_again}") from None
    if version.run_id != evaluated["run_id"]:  # the numbers of a new registered model begin at 1
        raise InputError(
            f"{version.uri} is not the version that was evaluated: the registered model was "
            f"deleted, and made again. {evaluate_again}"
        )
    if gone := registry.files_deleted(version):
        raise InputError(f"{gone} {evaluate_again}")
    runs.find(version.run_id, to_write=True, otherwise=runs.TRAIN_AGAIN)
    return version


def decide(
    challenger: "Version",
    evaluated: Mapping[str, Any],
    metrics: Mapping[str, Any],
    promotion: Promotion,
) -> dict[str, Any]:
    """Give a version the alias that it deserves; return the decision, ready for JSON."""
    from image_classifier.tracking import champion as aliases
    from image_classifier.tracking import ledger, registry

    rows = read_manifest()
    test = [row for row in rows if row.split == "test"]
    known = ledger.mark_decision(challenger, test_digest(test))
    look = known.look_of(challenger)
    level = looks.level_of_look(look)

    champion = aliases.current_champion(challenger.name)
    is_champion = champion is not None and champion.version == challenger.version
    if is_champion:
        champion = None  # nothing to compare with

    unfit = not_above_chance(evaluated, promotion.metric, test, look)
    unfit += below_minimums(metrics, evaluated["intervals"], test, evaluated["classes"], promotion)
    unfit += unrecognised_classes(
        evaluated["recalls"], evaluated["recall_intervals"], test, promotion.minimum_recall
    )
    unfit += unaccepted_shortcuts(evaluated["shortcuts"], promotion)
    if "rolled_back" in challenger.tags:
        unfit.append(f"it was rolled back on {challenger.tags['rolled_back']}")
    reasons, comparison = list(unfit), None
    if champion:
        if gone := registry.files_deleted(champion):
            raise InputError(f"{gone} {aliases.without_champion(champion)}")
        left, reason = comparable_images(champion, evaluated, rows, test)
        if not reason:
            try:
                comparison = compare(challenger, champion, left, len(test), promotion.metric, level)
                reasons += not_better(comparison, look)
            except UnreadableImage as error:
                reason = f"it cannot read {error}"
        if reason:
            reasons.append(
                f"it cannot be compared with the champion, version {champion.version}: {reason}. "
                f"{aliases.without_champion(champion)}"
            )

    if not reasons:
        if champion is None and not is_champion:
            print(f"{challenger.name} had no champion to compare it with.")
        aliases.make_champion(challenger, champion)
    elif not unfit:
        aliases.make_challenger(challenger)
    return {
        "name": challenger.name,
        "version": challenger.version,
        "champion": is_champion or not reasons,
        "champion_before": champion.version if champion else None,
        "comparison": vars(comparison) if comparison else None,
        "findings": {
            kind: counts["test"]
            for kind, counts in evaluated["findings"].items()
            if "test" in counts
        },
        "ledger": known.record()
        | {"look": look, "level": level, "widening": looks.widening(level)},
        "reasons": reasons,
    }


def odd_test_images(findings: Mapping[str, int]) -> str:
    """Return what was found about test images, as a sentence."""
    found = ", ".join(f"{number} {kind}" for kind, number in findings.items())
    return f"Findings among the test images (all are measured): {found}. See {paths.ALL_FINDINGS}."


def not_above_chance(
    evaluated: Mapping[str, Any], metric: str, test: Sequence[ImageRow], look: int
) -> list[str]:
    """Return as a sentence that the interval of the metric does not lie above chance.

    Args:
        evaluated: What evaluate found; its intervals are those of 95%.
        metric: The name of the metric.
        test: The test images.
        look: Which look at them this version is; it decides the level of the interval.
    """
    found, chance = evaluated["intervals"].get(metric), evaluated["chance"].get(metric)
    if not found or chance is None or found["low"] is None or math.isnan(found["low"]):
        return [f"test {metric} has no interval; promotion.metric={metric} requires it"]
    value, level = found["value"], looks.level_of_look(look)
    low, high = looks.widened(value, found["low"], found["high"], level)
    if value == 1:
        labels, clusters = [row.label for row in test], [row.cluster for row in test]
        low = certain_low(metric, labels, clusters, level)
    low, high = max(0.0, low), min(1.0, high)
    if low > chance:
        return []
    return [
        f"test {metric} is {value:.4f}, with the {interval_name(look)} {low:.4f} to {high:.4f}: "
        f"not above chance, {chance:.4f} (promotion.metric={metric}); "
        f"{would_decide(images_needed(value, low, high, chance, len(test), level))}"
    ]


def interval_name(look: int) -> str:
    """Return which interval decides at a look, as text."""
    level = looks.percent(looks.level_of_look(look))
    return f"{level} interval (look {look} at this test set)"


def unrecognised_classes(
    recalls: Mapping[str, float | None],
    intervals: Mapping[str, Mapping[str, float | None]],
    test: Sequence[ImageRow],
    minimum: float,
) -> list[str]:
    """Return as a sentence the classes whose recall is too small; a missing one is too small.

    Args:
        recalls: For each class, its recall on the test images.
        intervals: For each class, the ends of the 95% interval.
        test: The test images.
        minimum: The smallest recall that is allowed.
    """
    low = {
        label: "missing"
        if value is None
        else f"{value:.4f} ({whether_below(value, intervals.get(label, {}), minimum, test, label)})"
        for label, value in recalls.items()
        if value is None or not value >= minimum
    }
    if not low:
        return []
    named = ", ".join(f"{label} {value}" for label, value in low.items())
    return [f"test recall is below promotion.minimum_recall={minimum:g}: {named}"]


def below_minimums(
    metrics: Mapping[str, Any],
    intervals: Mapping[str, Any],
    test: Sequence[ImageRow],
    classes: Sequence[str],
    promotion: Promotion,
) -> list[str]:
    """Return the minimums that the test metrics do not reach, as sentences.

    A metric that is missing, or NaN, reaches no minimum.

    Args:
        metrics: The test metrics.
        intervals: Their 95% intervals.
        test: The test images.
        classes: The classes; of two, the second is positive.
        promotion: The minimums.
    """
    minimums, label = {"accuracy": promotion.minimum_accuracy}, {}
    if len(classes) == 2:
        minimums = {"sensitivity": promotion.minimum_sensitivity} | minimums
        label = {"sensitivity": classes[1]}
    reasons = []
    for name, minimum in minimums.items():
        value, setting = metrics.get(name), f"promotion.minimum_{name}={minimum:g}"
        if value is None or math.isnan(value):
            reasons.append(f"test {name} is missing; {setting} requires it")
        elif value < minimum:
            decides = whether_below(
                value, intervals.get(name, {}), minimum, test, label.get(name, "")
            )
            reasons.append(f"test {name} is {value:.4f}, below {setting} ({decides})")
    return reasons


def whether_below(
    value: float,
    interval: Mapping[str, float | None],
    minimum: float,
    test: Sequence[ImageRow],
    label: str = "",
) -> str:
    """Return whether a value is certainly below a minimum, or how many more images would tell.

    Args:
        value: The value of a metric, below the minimum.
        interval: `low` and `high` of its 95% interval.
        minimum: The minimum.
        test: The test images.
        label: The class whose images the metric is about; empty: all test images.
    """
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None:
        return "it has no 95% interval"
    ends = f"95% interval {low:.4f} to {high:.4f}"
    if high < minimum:
        return f"{ends}: {would_decide(None)}"
    images = sum(row.label == label or not label for row in test)
    # the same question about the share of errors: is it above the one that is allowed?
    needed = images_needed(-value, -high, -low, -minimum, images)
    return f"{ends}: {would_decide(needed, label)}"


def would_decide(images: int | None, label: str = "") -> str:
    """Return how many more test images would decide what is open, as a clause.

    Args:
        images: Their number; None if more images cannot decide it.
        label: Their class; empty: of all classes, in the present shares.
    """
    if images is None:
        return "more test images would not help"
    digits = max(0, len(str(images)) - 2)
    rounded = -(-images // 10**digits) * 10**digits  # up: two digits are as much as is known
    of_class = f"{label} images in the test set" if label else "test images of all classes"
    return f"about {rounded:,} more {of_class} would decide it, if the values stay"


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
    champion: "Version",
    evaluated: Mapping[str, Any],
    rows: Sequence[ImageRow],
    test: Sequence[ImageRow],
) -> tuple[Sequence[ImageRow], str]:
    """Return the test images that a champion has not seen.

    Args:
        champion: The champion.
        evaluated: What evaluate found.
        rows: The manifest.
        test: Its test images.

    Returns:
        These images, and why the two versions cannot be compared, or an empty text.
    """
    from image_classifier.tracking import runs

    if champion.tags.get("manifest_digest") == evaluated["manifest_digest"]:
        return test, ""
    try:
        # with training.start_from the champion knows images of other versions, too. Of the
        # challenger this needs no check: train refuses to start from a version that has seen one
        # of these test images.
        seen = runs.seen_by(champion.run_id)
    except InputError as error:  # also of an earlier release: never compared with too many images
        return [], f"the images that it was trained with are not known ({error})"
    left = unseen(rows, seen, read_pairs(), evaluated["duplicate_distance"])
    missing = sorted(set(evaluated["classes"]) - {row.label for row in left})
    if len(left) == len(test) or (len(left) >= FEWEST and not missing):
        return left, ""
    lacks = f", and none of {', '.join(missing)}" if missing else ""
    return (
        left,
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
    level: float,
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
    scores = difference(metric, rows, ours, predicted_classes(champion, rows), level)
    left_out = test_images - len(rows)
    return Comparison(champion.version, metric, len(rows), left_out, *scores, level)


def predicted_classes(version: "Version", rows: Sequence[ImageRow]) -> list[str]:
    """Return the class that a version predicts for each image.

    Raises:
        UnreadableImage: it cannot read an image; the text names it.
    """
    from image_classifier.tracking.verified_models import load_classifier

    classifier, _ = load_classifier(version.uri)
    outputs = []
    for path, output, _ in classifier.outputs_of_files([paths.RAW / row.path for row in rows]):
        if isinstance(output, UnreadableImage):
            raise UnreadableImage(f"{path} ({output})")
        outputs.append(output.probabilities)
    names = classifier.metadata.classes
    return [names[choice] for choice in classifier.decide(np.concatenate(outputs))]


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


def not_better(comparison: Comparison, look: int) -> list[str]:
    """Return as a sentence why a version does not beat the champion."""
    low, high = comparison.difference_low, comparison.difference_high
    least = looks.least_differing(comparison.level)
    if low > 0 and comparison.differing >= least:
        return []
    images, value = comparison.images, comparison.challenger - comparison.champion
    text = (
        f"it is not clearly better than the champion: {comparison.metric} "
        f"{comparison.challenger:.4f}, champion (version {comparison.champion_version}) "
        f"{comparison.champion:.4f} on the same {images} test images. "
    )
    if low > 0:
        needed: int | None = math.ceil(images * (least / max(1, comparison.differing) - 1))
        text += (
            f"Only one of the two is right on {comparison.differing} independent images, and "
            f"{least} are the fewest for the {interval_name(look)}"
        )
    else:
        needed = images_needed(value, low, high, 0, images, comparison.level)
        text += (
            f"The {interval_name(look)} of the difference, {low:+.4f} to {high:+.4f}, is not above "
            f"0"
        )
    return [f"{text}; {would_decide(needed)}"]
