"""Why not to believe a model's test metrics: everything in the report that makes them doubtful."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from image_classifier.evaluation import looks
from image_classifier.evaluation.bootstrap import exact_interval
from image_classifier.evaluation.report_texts import interval, number, one_sided, shortcut_warnings

LOST = 0.1  # accuracy on an external set, below that on the test images, that is worth a warning
WIDE = 0.1  # of a 95% interval of balanced accuracy


@dataclass(frozen=True)
class Caveat:
    """A reason not to believe the test metrics.

    Attributes:
        text: The reason, as sentences.
        severe: Whether the metrics may mean nothing; otherwise they mean less than it seems.
        section: The section of the report that has the details.
    """

    text: str
    severe: bool
    section: str


def find_caveats(report: Mapping[str, Any]) -> list[Caveat]:
    """Return the reasons not to believe a report's test metrics, the severe ones first."""
    found = [*of_the_model(report), *of_the_sources(report), *of_the_test_set(report)]
    return sorted(found, key=lambda caveat: not caveat.severe)


def of_the_model(report: Mapping[str, Any]) -> Iterator[Caveat]:
    """Yield what makes the metrics of the model itself doubtful."""
    entry, chance = report["test"]["balanced_accuracy"], report["chance"]["balanced_accuracy"]
    if report["note"]:
        yield Caveat(report["note"], True, "data")
    for warning in one_sided(report):
        yield Caveat(warning, True, "confusion")
    if entry["low"] is None or entry["low"] <= chance:
        yield Caveat(
            f"The balanced accuracy is not clearly above chance: {number(entry['value'])} "
            f"({interval(entry)}), chance {number(chance)}.",
            True,
            "metrics",
        )
    for warning in shortcut_warnings(report):
        yield Caveat(warning, True, "shortcuts")
    for sentence in report["weak_spots"]["sentences"]:
        yield Caveat(f"{sentence}.", False, "weak-spots")


def of_the_sources(report: Mapping[str, Any]) -> Iterator[Caveat]:
    """Yield why the metrics may not hold for images from other sources."""
    if not report["external"]:
        yield Caveat(
            "All test images come from the same dataset as the training images. How good the model "
            "is on images from another hospital, camera or year was not tested (setting "
            "`external`), and is often much worse.",
            True,
            "external",
        )
    for name, result in report["external"].items():
        for label, entry in result["classes"].items():
            right = round(entry["accuracy"] * entry["images"])
            low, high = exact_interval(right, entry["images"])
            lowest = report["classes_test"][label]["recall"]["low"]
            if entry["drop"] >= LOST and lowest is not None and high < lowest:
                yield Caveat(
                    f"On images of the external set {name}, the model recognises {right} of "
                    f"{entry['images']} {label}, {entry['accuracy']:.1%} (95% interval {low:.1%} "
                    f"to {high:.1%}): {100 * entry['drop']:.1f} points fewer than on the test "
                    f"images.",
                    True,
                    "external",
                )


def of_the_test_set(report: Mapping[str, Any]) -> Iterator[Caveat]:
    """Yield what is wrong with the test images: too few, wrongly labelled, looked at too often."""
    images = sum(map(sum, report["confusion"]))
    entry = report["test"]["balanced_accuracy"]
    if entry["low"] is not None and entry["high"] - entry["low"] > WIDE:
        yield Caveat(
            f"{images} test images are few: the balanced accuracy for all images of this source "
            f"may be anywhere from {entry['low']:.1%} to {entry['high']:.1%} (95% interval).",
            False,
            "metrics",
        )
    if not report["duplicates"]["groups"]:
        yield Caveat(
            "It is not known which images show the same patient or object (setting "
            "dataset.group_pattern). If a training and a test image do, the metrics are too high. "
            "If two test images do, the intervals are too narrow.",
            False,
            "data",
        )
    elif alone := report["duplicates"]["without_group"]:
        yield Caveat(
            f"{alone} of all images have no group, and count as independent. If some of them show "
            f"the same patient or object, the metrics may be too high, and the intervals too "
            f"narrow.",
            False,
            "data",
        )
    if suspected := report["label_errors"]["by_split"]["test"]["suspected"]:
        yield Caveat(
            f"The labels of {suspected} of the {images} test images are suspected to be wrong.",
            False,
            "labels",
        )
    if report["ledger"]["looks"] > 1:
        due = looks.due(report["ledger"])
        yield Caveat(" ".join([looks.sentence(report["ledger"]), due]), bool(due), "ledger")
    if not any(report["variation"].values()):
        yield Caveat(
            "No repeat of this training is known. Another seed, or other training images, would "
            "give other values; how different is not known.",
            False,
            "variation",
        )
