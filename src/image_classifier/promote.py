"""promote: makes the evaluated version champion, or says why not.

Takes the registered version that evaluate measured. It needs the floors of `promotion`, no
suspected shortcut that is not accepted by name, and, where there is a champion, a higher accuracy
than it: both are scored again on the test images of the manifest, and the 95% interval of their
difference must lie above 0. Gives the alias `champion` (or `challenger`, to one that only the
champion keeps from it) and the decision.

    python -m image_classifier.promote --rollback     gives the alias back to the champion before
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from image_classifier import config as configuration
from image_classifier import paths
from image_classifier.command_line import explain
from image_classifier.data.images import UnreadableImage
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.errors import InputError
from image_classifier.evaluation.metrics import RESAMPLES, percentiles, resample
from image_classifier.records import read_record
from image_classifier.schema import Config, Promotion

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
        paths.EVALUATED, "evaluate", name=str, version=str, manifest_digest=str, shortcuts=list[str]
    )
    if evaluated["manifest_digest"] != manifest_digest():
        raise InputError(f"{paths.MANIFEST} changed since evaluate: run `dvc repro evaluate`.")
    from image_classifier.tracking import connection, registry  # imports MLflow

    with connection.answering():
        challenger = registry.get_version(evaluated["name"], evaluated["version"])
        with registry.one_at_a_time(challenger.name):
            decision = decide(challenger, evaluated, config.promotion)
        paths.DECISION.parent.mkdir(parents=True, exist_ok=True)
        paths.DECISION.write_text(json.dumps(decision, indent=2) + "\n")
        reasons = "; ".join(decision["reasons"])
        registry.log_decision(challenger, reasons or "champion", paths.DECISION)
    if not reasons:
        print(f"{challenger.uri} is champion.")
    elif decision["champion"]:
        print(
            f"{challenger.uri} stays champion, which it was before, but would not be made so now: "
            f"{reasons}. To undo it: python -m image_classifier.promote --rollback"
        )
    else:
        print(f"{challenger.uri} is not made champion: {reasons}.")


def decide(
    challenger: "Version", evaluated: Mapping[str, Any], promotion: Promotion
) -> dict[str, Any]:
    """Set the alias that a version deserves; return the decision, ready for JSON."""

    from image_classifier.tracking import registry

    champion = registry.champion(challenger.name)
    again = champion is not None and champion.version == challenger.version
    if again:
        champion = None  # nothing to compare with

    not_fit = below_floors(challenger.tags, promotion)
    not_fit += unaccepted_shortcuts(evaluated["shortcuts"], promotion)
    if "rolled_back" in challenger.tags:
        not_fit.append(f"it was rolled back on {challenger.tags['rolled_back']}")
    reasons, comparison = list(not_fit), None
    if champion and champion.tags.get("manifest_digest") != evaluated["manifest_digest"]:
        reasons.append(
            f"the champion, version {champion.version}, was trained on other data, so the two do "
            f"not compare: to start anew, take its alias away on the model's page in the MLflow UI"
        )
    elif champion:
        comparison = compare(challenger, champion)
        reasons += not_better(comparison)

    if not reasons:
        registry.make_champion(challenger, champion)
    elif not not_fit:
        registry.set_alias(challenger, registry.CHALLENGER)
    return {
        "name": challenger.name,
        "version": challenger.version,
        "champion": again or not reasons,
        "champion_before": champion.version if champion else None,
        "comparison": vars(comparison) if comparison else None,
        "reasons": reasons,
    }


def below_floors(tags: Mapping[str, str], floors: Promotion) -> list[str]:
    """Return the floors that a version's test figures do not reach, as sentences."""
    limits = {
        "sensitivity": floors.minimum_sensitivity,
        "accuracy": floors.minimum_accuracy,
    }
    return [
        f"test_{name} {float(tags[f'test_{name}']):.4f} is below the floor "
        f"promotion.minimum_{name}={floor:g}"
        for name, floor in limits.items()
        if f"test_{name}" in tags and not float(tags[f"test_{name}"]) >= floor  # NaN is below, too
    ]


def unaccepted_shortcuts(found: list[str], promotion: Promotion) -> list[str]:
    """Return as a sentence which suspected shortcuts the settings do not accept."""
    if not set(found) - set(promotion.accept_shortcuts):
        return []
    return [
        f"a shortcut is suspected, as a probe that sees nothing of what matters comes near the "
        f"model: {' and '.join(found)} (to promote all the same, set "
        f"promotion.accept_shortcuts=[{','.join(found)}])"
    ]


def compare(challenger: "Version", champion: "Version") -> Comparison:
    """Score two versions on the test images of the manifest, each with its own threshold."""
    rows = [row for row in read_manifest() if row.split == "test"]
    ours, theirs = right_answers(challenger, rows), right_answers(champion, rows)
    units = [row.unit for row in rows]
    difference = ours.astype(float) - theirs
    low, high = percentiles([difference[i].mean() for i in resample(units, RESAMPLES, seed=0)])
    return Comparison(champion.version, float(ours.mean()), float(theirs.mean()), low, high)


def right_answers(version: "Version", rows: list[ImageRow]) -> npt.NDArray[np.bool_]:
    """Return which test images a version gets right: bool array of shape (rows,)."""

    from image_classifier.tracking import registry

    classifier, _ = registry.load_classifier(version.uri)
    outputs = []
    for path, output in classifier.probabilities_of_files([paths.RAW / row.path for row in rows]):
        if isinstance(output, UnreadableImage):
            raise InputError(f"{path} cannot be read any more: run `dvc repro -f -s split`.")
        outputs.append(output)
    names = classifier.settings.classes
    answers = [names[answer] for answer in classifier.decide(np.stack(outputs))]
    return np.array([answer == row.label for answer, row in zip(answers, rows, strict=True)])


def not_better(comparison: Comparison) -> list[str]:
    """Return why a version does not beat the champion, as sentences."""
    if comparison.difference_low > 0:
        return []
    return [
        f"on the same test images its accuracy is {comparison.challenger:.4f}, that of the "
        f"champion, version {comparison.champion_version}, {comparison.champion:.4f}: the 95% "
        f"interval of the difference, {comparison.difference_low:+.4f} to "
        f"{comparison.difference_high:+.4f}, does not lie above 0"
    ]


def rollback(config: Config) -> None:
    """Give the alias `champion` back to the version that had it before.

    Raises:
        InputError: there is no champion, or none before it.
    """
    from image_classifier.tracking import connection, registry

    name = config.tracking.registered_model
    with connection.answering(), registry.one_at_a_time(name):
        before, after = registry.roll_back(name)
    print(f"{after.uri} is champion again; {before.uri} was rolled back.")


def main() -> None:
    """Run the command line; exit 1 with a message on an InputError."""
    parser = argparse.ArgumentParser(
        prog="promote", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollback", action="store_true", help="undo the last promotion")
    run = rollback if parser.parse_args().rollback else promote
    try:
        run(configuration.load())
    except (InputError, OSError) as error:
        sys.exit(f"promote: {explain(error)}")


if __name__ == "__main__":
    main()
