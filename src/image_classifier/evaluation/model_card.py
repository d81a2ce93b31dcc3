"""The model card: what a model is, how good, how sure that is, and what it is not for."""

from collections.abc import Mapping
from typing import Any

from image_classifier.data.folders import SPLITS

HEADLINE = ("accuracy", "sensitivity", "specificity", "roc_auc", "balanced_accuracy")
LISTED = 5  # file names in a list; the whole lists are artifacts


def write(report: Mapping[str, Any]) -> str:
    """Return the model card in Markdown; `report` is evaluate's report.json."""
    sections = [
        f"> **{report['note']}**" if report["note"] else "",
        f"# Model card: {report['version'].removeprefix('models:/')}",
        introduction(report),
        "## Data\n\n" + data(report),
        "## Test figures\n\n" + figures(report),
        "## Shortcuts\n\n" + shortcuts(report),
        "## External sets\n\n" + external(report),
        "## Intended use and limits\n\n" + limits(report),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def introduction(report: Mapping[str, Any]) -> str:
    """Return what the model is."""
    height, width, channels = report["image_shape"]
    decides = (
        f" `{report['classes'][1]}` is the answer from a probability of {report['threshold']:.4g} "
        f"(rule: {report['threshold_rule']}, chosen on validation images)."
        if len(report["classes"]) == 2
        else ""
    )
    return (
        f"The CNN `{report['model']}` with {report['parameters']:,} parameters sorts images "
        f"({height} x {width} x {channels}) into {', '.join(report['classes'])}.{decides} "
        f"Temperature {report['temperature']:.4g}. MLflow run `{report['run_id']}`."
    )


def data(report: Mapping[str, Any]) -> str:
    """Return where the images come from, how they are split, and what leaked."""
    source, copies = report["source"], report["copies"]
    commit = f" at commit `{source['commit']}`" if source["commit"] else ""
    lines = [
        f"`{report['dataset']}` from {source['source']}{commit}; manifest "
        f"`{report['manifest_digest'][:16]}`.",
        "",
        table(
            ["split", *report["classes"]],
            [
                [split, *(str(report["counts"][split][label]) for label in report["classes"])]
                for split in SPLITS
            ],
        ),
        "",
        f"Copies: {copies['exact_pairs']} exact and {copies['near_pairs']} near pairs (perceptual "
        f"hashes within {copies['distance']} of 576 bits). Groups such as patients: "
        f"{copies['groups'] or 'none known'}. Copies and groups are kept in one split.",
    ]
    if dropped := copies["leaking_dropped"]:
        named = [f"`{path}`" for path in list(dropped)[:LISTED]]
        more = f" and {len(dropped) - LISTED} more" if len(dropped) > LISTED else ""
        lines.append(
            f"**{len(dropped)} images were in two splits of the dataset and are left out**: "
            f"{', '.join(named)}{more}."
        )
    if report["left_out"]:
        lines.append(
            f"Files left out in all: {report['left_out']}, see `data/left_out.csv` of the run."
        )
    return "\n".join(lines)


def figures(report: Mapping[str, Any]) -> str:
    """Return the test figures with their intervals, and the confusion matrix."""
    rows = [
        [name, number(entry["value"]), f"{number(entry['low'])} to {number(entry['high'])}"]
        for name, entry in report["test"].items()
    ]
    images = sum(map(sum, report["confusion"]))
    parts = [
        f"On {images} test images; 95% bootstrap intervals, resampled by image"
        + (" and patient or group.\n" if report["copies"]["groups"] else ".\n"),
        table(["figure", "value", "95% interval"], rows),
        "",
        table(
            ["true \\ answer", *report["classes"]],
            [
                [label, *map(str, counts)]
                for label, counts in zip(report["classes"], report["confusion"], strict=True)
            ],
        ),
    ]
    if report["slices"]:
        rows = [
            [source, str(entry["images"]), number(entry["accuracy"])]
            for source, entry in report["slices"].items()
        ]
        parts += ["", table(["source", "test images", "accuracy"], rows)]
    return "\n".join(parts)


def shortcuts(report: Mapping[str, Any]) -> str:
    """Return what the probes found."""
    rows = [
        [
            f"{probe['name']}: {report['probe_descriptions'][probe['name']]}",
            f"{probe['accuracy']:.3f} ({probe['low']:.3f} to {probe['high']:.3f})",
            f"{probe['share']:.0%}",
        ]
        for probe in report["probes"]
    ]
    chance = report["probes"][0]["chance"]
    verdict = (
        f"**{shortcut_warning(report)}**"
        if report["shortcuts"]
        else "Neither probe comes near the model."
    )
    return (
        f"Probes that see none of what matters, trained and tested on the same split (chance: "
        f"{chance:.3f}; the model: {report['test']['accuracy']['value']:.3f}):\n\n"
        + table(["probe", "test accuracy", "share of the model's knowledge"], rows)
        + f"\n\n{verdict}"
    )


def shortcut_warning(report: Mapping[str, Any]) -> str:
    """Return in one sentence that the model may have a shortcut."""
    suspicious = " and ".join(
        f"the {probe['name']} probe reaches {probe['accuracy']:.1%}"
        + (f" (by {probe['leading']} most of all)" if probe["leading"] else "")
        for probe in report["probes"]
        if probe["suspicious"]
    )
    return (
        f"Shortcut suspected: {suspicious} where the model reaches "
        f"{report['test']['accuracy']['value']:.1%}, so its accuracy does not show that it looks "
        f"at what matters."
    )


def external(report: Mapping[str, Any]) -> str:
    """Return the results on external sets."""
    if not report["external"]:
        return "None was given: how the model does on images from elsewhere is not known."
    rows = [
        [name, label, str(entry["images"]), f"{entry['accuracy']:.3f}", f"{entry['drop']:+.3f}"]
        for name, result in report["external"].items()
        for label, entry in result["classes"].items()
    ]
    left_out = sum(result["copies_left_out"] for result in report["external"].values())
    note = f"\n\n{left_out} copies of the dataset's own images were left out." if left_out else ""
    return table(["set", "class", "images", "accuracy", "drop from test"], rows) + note


def limits(report: Mapping[str, Any]) -> str:
    """Return what the model is for, and what not."""
    return (
        "For experiments with image classification, on images that come from where the training "
        "images came from. Not a medical device: not to be used for a diagnosis or any decision "
        "about a person. The intervals cover the chance of drawing these test images, not images "
        "from elsewhere."
    )


def summary(report: Mapping[str, Any]) -> str:
    """Return the headline figures for the screen, with a warning where a shortcut is suspected."""
    lines = [f"{report['version']} on the test images of {report['dataset']}:"]
    lines += [
        f"  {name:<18} {number(entry['value'])}  "
        f"({number(entry['low'])} to {number(entry['high'])})"
        for name, entry in report["test"].items()
        if name in HEADLINE
    ]
    lines += [
        f"  {probe['name'] + ' probe':<18} {probe['accuracy']:.4f}  (chance {probe['chance']:.4f})"
        for probe in report["probes"]
    ]
    lines += [
        f"  {name}: {label:<10} {entry['accuracy']:.4f}  (drop {entry['drop']:+.4f})"
        for name, result in report["external"].items()
        for label, entry in result["classes"].items()
    ]
    if report["shortcuts"]:
        lines.append(f"WARNING: {shortcut_warning(report)}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Return a figure with four decimals."""
    return "n/a" if value is None else f"{value:.4f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
