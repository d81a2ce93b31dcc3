"""The model card: what a model is, how good it is, why not to believe that, and its limits.

It is short: the description of a version in MLflow. The page report.html has the details.
"""

from collections.abc import Mapping
from typing import Any

from image_classifier.data.labels import SPLITS
from image_classifier.evaluation import report_texts
from image_classifier.evaluation.metrics import HEADLINE
from image_classifier.evaluation.report_texts import (
    LISTED,
    chance_of,
    doubt_warnings,
    interval,
    number,
    one_sided,
    share,
    shortcut_verdict,
    shortcut_warnings,
)

IN_CARD = (*HEADLINE, "roc_auc_macro", "f1_macro")
CLASSES = 20  # whose recall is in the card: MLflow limits its length


def write(report: Mapping[str, Any]) -> str:
    """Return the model card in Markdown; `report` is evaluate's report.json."""
    sections = [
        f"> **{report['note']}**" if report["note"] else "",
        f"# Model card: {report['version'].removeprefix('models:/')}",
        report_texts.introduction(report),
        "## Test metrics\n\n" + test_metrics(report),
        "## Why not to believe them\n\n" + caveats(report),
        "## What was checked\n\n" + checks(report),
        "## External sets\n\n" + external(report) if report["external"] else "",
        "## Data\n\n" + data(report),
        "## Intended use and limits\n\n" + report_texts.limits(),
        "Everything in detail, with pictures: `evaluation/report.html` of the run.",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def test_metrics(report: Mapping[str, Any]) -> str:
    """Return the most important test metrics with their intervals, and their chance."""
    images = sum(map(sum, report["confusion"]))
    drawn = "patient or group" if report["duplicates"]["groups"] else "image"
    rows = [
        [name, number(entry["value"]), interval(entry), chance_of(report, name)]
        for name in (HEADLINE if len(report["classes"]) == 2 else IN_CARD)
        if (entry := report["test"].get(name))
    ]
    recalls = [
        [f"recall of {label} ({entry['images']})", number(found["value"]), interval(found), ""]
        for label, entry in report["classes_test"].items()
        if len(report["classes"]) > 2 and (found := entry["recall"])
    ]
    return (
        f"On {images} test images. The 95% intervals are for this model on all images of the same "
        f"source; the independent unit is the {drawn}.\n\n"
        + table(["metric", "value", "95% interval", "chance"], [*rows, *recalls[:CLASSES]])
    )


def caveats(report: Mapping[str, Any]) -> str:
    """Return the reasons not to believe the test metrics, as a list."""
    lines = [
        f"- **{caveat['text']}**" if caveat["severe"] else f"- {caveat['text']}"
        for caveat in report["caveats"]
        if caveat["text"] != report["note"]  # which is at the top
    ]
    return "\n".join(lines) or "No reason was found."


def checks(report: Mapping[str, Any]) -> str:
    """Return in a sentence or two what each check found."""
    labels, spots, doubt = report["label_errors"], report["weak_spots"], report["doubt"]
    once = ", each patient or group counting once" if report["duplicates"]["groups"] else ""
    first = [
        f"`{entry['path']}` ({entry['label']}, likely {entry['likely_label']})"
        for entry in labels["first"]
        if entry["suspected"] == "yes"
    ]
    suspected = (
        f"**{labels['suspected']} are suspected to be wrong**, such as {', '.join(first[:LISTED])}."
        if labels["suspected"]
        else f"of the {labels['images']} checked, none is suspected to be wrong."
    )
    shortcuts = "suspected, see above." if report["shortcuts"] else shortcut_verdict(report)
    found = [
        f"Shortcuts: {shortcuts}",
        f"Labels: {suspected} {labels['images']} of {labels['of']} labels were checked"
        + ("." if labels["by_folds"] else ": those of validation and test."),
        f"Weak spots: {len(spots['sentences']) or 'none is clear'}, of {spots['tried']} kinds of "
        f"test images that were compared with the others.",
        f"Plausible classes: the true class is among them for {share(doubt['covered'])} of the "
        f"test images{once}; at least {100 * doubt['coverage']:.4g}% were asked for, on average "
        f"over models.",
        f"Unusual images: {share(doubt['unusual'])} of the test images; of such models, 95% find "
        f"{report_texts.spread_of(doubt['unusual_range'])} of new images from the same source "
        f"unusual.",
        *(f"**{warning}**" for warning in doubt_warnings(report)),
        *([report_texts.unknown(report)] if doubt["unknown"] else []),
        *([report_texts.variation(report)] if any(report["variation"].values()) else []),
        report_texts.looked_at(report),
    ]
    return "\n".join(f"- {line}" for line in found)


def data(report: Mapping[str, Any]) -> str:
    """Return the number of images in each split, and what is known about them."""
    counts = table(
        ["split", *report["classes"]],
        [
            [split, *(str(report["counts"][split][label]) for label in report["classes"])]
            for split in SPLITS
        ],
    )
    return f"{counts}\n\n{report_texts.data(report)}"


def external(report: Mapping[str, Any]) -> str:
    """Return the results on external sets."""
    rows = [
        [name, label, str(entry["images"]), f"{entry['accuracy']:.3f}", f"{entry['drop']:+.3f}"]
        for name, result in report["external"].items()
        for label, entry in result["classes"].items()
    ]
    copies = sum(result["duplicates"] for result in report["external"].values())
    note = f"\n\n{copies} duplicates of the dataset's own images were excluded." if copies else ""
    return table(["set", "class", "images", "accuracy", "accuracy lost against test"], rows) + note


def summary(report: Mapping[str, Any]) -> str:
    """Return the headline metrics for the screen, with a warning if a shortcut is suspected."""
    lines = [
        f"{report['version']} on the test images of {report['dataset']}:",
        f"  {'':<18} value   95% interval        chance",
    ]
    lines += [
        f"  {name:<18} {number(entry['value'])}  {interval(entry)}  {chance_of(report, name)}"
        for name in HEADLINE
        if (entry := report["test"].get(name))
    ]
    lines += [
        f"  {probe['name'] + ' probe':<18} {number(probe['balanced_accuracy'])}  "
        f"{interval(probe)}  {number(probe['chance'])}"
        for probe in report["probes"]
    ]
    lines += [
        f"  {name}: {label:<10} {entry['accuracy']:.4f}  (drop {entry['drop']:+.4f})"
        for name, result in report["external"].items()
        for label, entry in result["classes"].items()
    ]
    lines += [f"WARNING: {warning}" for warning in [*one_sided(report), *doubt_warnings(report)]]
    lines += [f"{sentence}." for sentence in report["weak_spots"]["sentences"]]
    lines += [f"WARNING: possible shortcut: {warning}" for warning in shortcut_warnings(report)]
    return "\n".join(lines)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
