"""The model card: what a model is, how good it is, how certain that is, and its limits."""

from collections.abc import Mapping
from typing import Any

from image_classifier.data.labels import SPLITS
from image_classifier.evaluation import looks
from image_classifier.evaluation.shortcut_tests import sentence

HEADLINE = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "roc_auc")
SOURCES = 20  # in the table; the complete list is in report.json
LISTED = 5  # file names in a list; the complete lists are artifacts of the run


def write(report: Mapping[str, Any]) -> str:
    """Return the model card in Markdown; `report` is evaluate's report.json."""
    sections = [
        f"> **{report['note']}**" if report["note"] else "",
        f"# Model card: {report['version'].removeprefix('models:/')}",
        introduction(report),
        "## Data\n\n" + data(report),
        "## Label errors\n\n" + label_errors(report),
        "## Test metrics\n\n" + test_metrics(report),
        "## Doubt\n\n" + doubt(report),
        "## Weak spots\n\n" + weak_spots(report),
        "## Variation\n\n" + variation(report),
        "## Shortcuts\n\n" + shortcuts(report),
        "## External sets\n\n" + external(report),
        "## Intended use and limits\n\n" + limits(),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def introduction(report: Mapping[str, Any]) -> str:
    """Return what the model is."""
    height, width, channels = report["image_shape"]
    decides = (
        f" It predicts `{report['classes'][1]}` when its probability is at least "
        f"{report['threshold']:.4g} ({threshold_rule(report)})."
        if len(report["classes"]) == 2
        else ""
    )
    flipped = "Probabilities are the mean of an image and its mirror image. " * report["flip"]
    return (
        f"The CNN `{report['model']}` with {report['parameters']:,} parameters classifies images "
        f"({height} x {width} x {channels}) as {' or '.join(report['classes'])}.{decides} "
        f"{backbone(report)}{start_from(report)}"
        f"Temperature {report['temperature']:.4g}. {flipped}MLflow run `{report['run_id']}`."
    )


def backbone(report: Mapping[str, Any]) -> str:
    """Return which pretrained weights the model began with, if any."""
    known = report["backbone"]
    if not known:
        return ""
    license_ = known["license"] or "not known (set `model.license`)"
    return (
        f"It began with the pretrained backbone `{known['name']}`"
        + (f", weights {known['weights']}" if known["weights"] else "")
        + f" (SHA-256 of the weights `{known['sha256']}`), license of the weights: {license_}. "
        + (f"{known['remark']}. " if known["remark"] else "")
    )


def start_from(report: Mapping[str, Any]) -> str:
    """Return which version's weights were the first ones, if any."""
    start = report["start_from"]
    if not start:
        return ""
    return (
        f"Its training started from the weights of `{start['uri'].removeprefix('models:/')}` "
        f"(MLflow run `{start['run_id']}`, SHA-256 of the weights `{start['weights_sha256']}`). "
    )


def threshold_rule(report: Mapping[str, Any]) -> str:
    """Return how the threshold was chosen."""
    rule = report["threshold_rule"]
    chosen = rule in ("youden", "sensitivity")
    return f"rule: {rule}, chosen on the validation images" if chosen else "set by hand"


def data(report: Mapping[str, Any]) -> str:
    """Return where the images come from, how they are split, and which ones leaked."""
    source, duplicates = report["source"], report["duplicates"]
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
        f"Duplicates: {duplicates['exact_pairs']} exact and {near_pairs(duplicates)}. Groups such "
        f"as patients: {duplicates['groups'] or 'unknown'}. Duplicates and groups are kept in one "
        f"split.",
    ]
    lines += [f"\n{remark}" for remark in report["remarks"]]
    for kind, number in report["unused"].items():
        lines.append(f"\nNot used: {number} files ({kind}).")
    for key, what in (
        ("leaking_dropped", "were in two splits of the dataset, and are excluded from validation "
         "and test"),
        ("contradictions_dropped", "have a duplicate in another class, and are left out"),
    ):  # fmt: skip
        if dropped := duplicates[key]:
            named = [f"`{path}`" for path in list(dropped)[:LISTED]]
            more = f" and {len(dropped) - LISTED} more" if len(dropped) > LISTED else ""
            lines.append(f"\n**{len(dropped)} images {what}**: {', '.join(named)}{more}.")
    if report["skipped"]:
        lines.append(f"\nSkipped files: {report['skipped']}, see `data/skipped.csv` of the run.")
    return "\n".join(lines)


def label_errors(report: Mapping[str, Any]) -> str:
    """Return how many labels are suspected to be wrong, the first ones, and what to do."""
    found = report["label_errors"]
    checked = f"{found['images']} of {found['of']} images were checked"
    if found["by_folds"]:
        checked += ", by models that were not trained on them."
    else:
        checked += (
            ": only those of validation and test, because the model was trained on the others. "
            "`image-classifier train --multirun search=folds` checks all, then `dvc repro -f -s "
            "evaluate` writes it here."
        )
    complete = "`evaluation/suspected_labels.csv` of the run lists the labels that fit least."
    if not found["suspected"]:
        return f"No label is suspected to be wrong. {checked} {complete}"
    splits = ", ".join(
        f"{entry['suspected']} in {split}"
        for split, entry in found["by_split"].items()
        if entry["suspected"]
    )
    suspected = [entry for entry in found["first"] if entry["suspected"] == "yes"]
    rows = [
        [
            f"`{entry['path']}`", entry["label"], entry["likely_label"],
            f"{entry['probability_of_label']:.1%}",
            f"{entry['probability_of_likely_label']:.1%}",
        ]
        for entry in suspected[:LISTED]
    ]  # fmt: skip
    header = ["image", "label", "likely label", "probability of the label", "of the likely label"]
    return (
        f"**{found['suspected']} labels are probably wrong** ({splits}). Estimated share of wrong "
        f"labels: {found['estimated_share']:.1%}. {checked} The first ones:\n\n"
        + table(header, rows)
        + f"\n\n{complete} Look at the image: it may also be an unusual one. If the label is "
        f"wrong, add a line `path,label,reason` to corrections.csv (the label `drop` leaves the "
        f"image out), then `dvc repro`. Corrections of test labels that only follow the model make "
        f"its test metrics too good: look at other test images, too. Classes that are often "
        f"confused in the labels themselves look like hard images, and are not found."
    )


def near_pairs(duplicates: Mapping[str, Any]) -> str:
    """Return how many near duplicates there are, and what counts as one."""
    if duplicates["distance"] is None:
        return "no search for near duplicates"
    return (
        f"{duplicates['near_pairs']} near pairs (at most {duplicates['distance']} of 576 bits of "
        f"their perceptual hashes differ)"
    )


def test_metrics(report: Mapping[str, Any]) -> str:
    """Return the test metrics with their intervals, and the confusion matrix."""
    rows = [
        [name, number(entry["value"]), interval(entry), chance_of(report, name)]
        for name, entry in report["test"].items()
    ]
    images = sum(map(sum, report["confusion"]))
    drawn = "patient or group" if report["duplicates"]["groups"] else "image"
    parts = [
        f"On {images} test images; 95% intervals from a bootstrap, resampled by {drawn}. "
        f"{looked_at(report)}\n",
        table(["metric", "value", "95% interval", "chance"], rows),
        "",
        *(f"**{warning}**\n" for warning in one_sided(report)),
        table(
            ["class", "test images", "precision", "recall", "F1"],
            [
                [label, str(entry["images"])]
                + [
                    f"{number(entry[name]['value'])} ({interval(entry[name])})"
                    for name in ("precision", "recall", "f1")
                ]
                for label, entry in report["classes_test"].items()
            ],
        ),
        "",
        table(
            ["true \\ predicted", *report["classes"]],
            [
                [label, *map(str, counts)]
                for label, counts in zip(report["classes"], report["confusion"], strict=True)
            ],
        ),
    ]
    if report["sources"]:
        largest = sorted(report["sources"].items(), key=lambda item: -item[1]["images"])
        rows = [
            [source, str(entry["images"]), number(entry["accuracy"])]
            for source, entry in largest[:SOURCES]
        ]
        parts += ["", table(["source", "test images", "accuracy"], rows)]
        if len(largest) > SOURCES:
            parts.append(f"\n{len(largest) - SOURCES} smaller sources are in `report.json`.")
    return "\n".join(parts)


def looked_at(report: Mapping[str, Any]) -> str:
    """Return how often the test set was looked at, and whether fresh images are due."""
    due = looks.due(report["ledger"])
    return looks.sentence(report["ledger"]) + (f" **{due}**" if due else "")


def weak_spots(report: Mapping[str, Any]) -> str:
    """Return the kinds of test images on which the model is certainly worse."""
    found = report["weak_spots"]
    if not found["tried"]:
        return "There are too few test images to compare kinds of them."
    few = found["too_small"]
    return (
        f"{found['tried']} kinds of test images were compared with the others (by source, size of "
        f"the group, brightness, size, and clusters of similar images), each class with the same "
        f"class; images of one group count once."
        + (f" {len(few)} more were too small to be compared." if few else "")
        + "".join(f"\n\n**{sentence}.**" for sentence in found["sentences"])
        + ("\n\nWeak spots may share images." if len(found["sentences"]) > 1 else "")
        + ("" if found["sentences"] else " On none of them is the model certainly worse.")
    )


def interval(entry: Mapping[str, float | None]) -> str:
    """Return the ends of an interval."""
    return f"{number(entry['low'])} to {number(entry['high'])}"


def chance_of(report: Mapping[str, Any], name: str) -> str:
    """Return what chance reaches in a metric, or nothing where it is not defined."""
    value = report["chance"].get(name)
    return "" if value is None else number(value)


def one_sided(report: Mapping[str, Any]) -> list[str]:
    """Return a warning if the model never predicts some class."""
    called = [sum(column) for column in zip(*report["confusion"], strict=True)]
    never = [label for label, n in zip(report["classes"], called, strict=True) if not n]
    if not never:
        return []
    if len(never) == len(report["classes"]) - 1:
        (only,) = set(report["classes"]) - set(never)
        return [f"The model answers {only} for every test image, whatever the image shows."]
    return [f"The model never answers {', '.join(never)} on the test images."]


def variation(report: Mapping[str, Any]) -> str:
    """Return how much the result varies with the images that were trained on, and with the seed."""
    found = report["variation"]
    lines = [
        f"{title}, balanced accuracy on validation images: {found[name]}."
        for name, title in (
            ("folds", "Cross-validation with these settings"),
            ("seeds", "The same training with several seeds"),
        )
        if found[name]
    ]
    if not lines:
        return (
            "These settings were trained once, so how much the result varies with the seed and the "
            "training images is not known. `image-classifier train --multirun search=folds` "
            "measures it, then `dvc repro -f -s evaluate` writes it here."
        )
    return " ".join(lines)


def doubt(report: Mapping[str, Any]) -> str:
    """Return how often the true class is plausible, and how often an image is unusual."""
    found = report["doubt"]
    sizes = [f"{number} for {images}" for number, images in enumerate(found["sizes"]) if images]
    once = ", each patient or group counting once" if report["duplicates"]["groups"] else ""
    parts = [
        f"Each prediction lists the plausible classes: the predicted one, the most probable one, "
        f"and those with a probability of at least {found['plausible_limit']:.4g}. This limit "
        f"comes from {found['validation_clusters']} independent validation images, so that, on "
        f"average, the true class is plausible for at least {found['coverage']:.4g} of new images "
        f"from the same source; with so many validation images, 95% of such models reach "
        f"{spread_of(found['range'])}, or more. On the test images{once} it is "
        f"{share(found['covered'])}. Number of plausible classes: {', '.join(sizes)} test images.",
        "This is promised for all classes together, if each class has the same share of the new "
        "images as of the validation images.",
        f"An image is unusual when it is less like the training images than "
        f"{found['unusual_percentile']:g}% of the validation images. Of new images from the same "
        f"source, about {100 - found['unusual_percentile']:g}% are, for 95% of such models "
        f"{spread_of(found['unusual_range'])}; of the test images {share(found['unusual'])}.",
    ]
    if found["low_classes"]:
        low = [f"{name}, {share(found['covered_by_class'][name])}" for name in found["low_classes"]]
        parts[1] += f" **It is clearly lower for {' and for '.join(low)}.**"
    if found["unknown"]:
        parts.append(unknown(report))
    parts += [f"**{warning}**" for warning in doubt_warnings(report)]
    return "\n\n".join(parts)


def unknown(report: Mapping[str, Any]) -> str:
    """Return what the setting `evaluation.unknown` does."""
    found, right = report["doubt"]["unknown"], report["test"]["accuracy"]["value"]
    others = (
        "no other answer is left"
        if found["accuracy"] is None
        else f"the accuracy of the other answers is {share(found['accuracy'])}, of all answers "
        f"without `unknown` {right:.1%}"
    )
    return (
        f"The answer is `unknown` when an image is {' or '.join(found['when'])}: for "
        f"{share(found['share'])} of the test images; {others}. All other metrics of this card are "
        f"of the predicted classes, without `unknown`."
    )


def doubt_warnings(report: Mapping[str, Any]) -> list[str]:
    """Return in words where the validation images are too few to say what is asked for."""
    found, images = report["doubt"], report["doubt"]["validation_images"]
    warnings = []
    if found["range"]["low"] == 1:
        all_unknown = found["unknown"] and "ambiguous" in found["unknown"]["when"]
        more = " So every prediction is `unknown`." if all_unknown else ""
        warnings.append(
            f"Every class is plausible for every image: {found['validation_clusters']} independent "
            f"validation images are too few for evaluation.coverage={found['coverage']:g}.{more}"
        )
    if 100 * images / (images + 1) < found["unusual_percentile"]:
        warnings.append(
            f"No image can be unusual: {images} validation images are too few for "
            f"evaluation.unusual_percentile={found['unusual_percentile']:g}."
        )
    return warnings


def share(entry: Mapping[str, float]) -> str:
    """Return a share with its interval, in percent."""
    return f"{entry['value']:.1%} (95% interval {entry['low']:.1%} to {entry['high']:.1%})"


def spread_of(ends: Mapping[str, float]) -> str:
    """Return the range of a share in percent."""
    return f"{ends['low']:.1%} to {ends['high']:.1%}"


def shortcuts(report: Mapping[str, Any]) -> str:
    """Return what the probes and the tests of the model found."""
    rows = [
        [
            f"{probe['name']}: {report['probe_descriptions'][probe['name']]}",
            f"{probe['balanced_accuracy']:.3f} ({probe['low']:.3f} to {probe['high']:.3f})",
            f"{probe['share']:.0%}",
        ]
        for probe in report["probes"]
    ]
    chance = report["probes"][0]["chance"]
    model = report["test"]["balanced_accuracy"]["value"]
    tests = [
        [
            f"{test['name']}: {report['probe_descriptions'][test['name']]}",
            *(changed(test, metric) for metric in ("balanced_accuracy", "roc_auc")),
            f"{test['flipped']} of {test['images']}",
        ]
        for test in report["shortcut_tests"]
    ]
    remarks = [
        f"{test['name']}: {'; '.join(test['remarks'])}."
        for test in report["shortcut_tests"]
        if test["remarks"]
    ]
    equal = [
        probe["name"] for probe in report["probes"]
        if probe["balanced_accuracy"] >= model and not probe["suspicious"]
    ]  # fmt: skip
    if report["shortcuts"]:
        verdict = f"**{shortcut_warning(report)}**"
    elif equal:
        verdict = (
            f"**The balanced accuracy of the model is not higher than that of the probe "
            f"{' and '.join(equal)}, which is not above chance: the model has learnt nothing that "
            f"helps on the test images.**"
        )
    else:
        verdict = "No probe and no test suggests a shortcut."
    return (
        f"Probes are classifiers that see only the file metadata, or only the border, trained "
        f"on the same training images and tested on the same test images as the model. "
        f"Balanced accuracy: chance {chance:.3f}, the model "
        f"{model:.3f}.\n\n"
        + table(["probe", "balanced accuracy", "(probe - chance) / (model - chance)"], rows)
        + "\n\nThe tests show the model itself the test images in changed forms. In the last two, "
        "the second value is with the border, or the kind of file, of another image of the same "
        "class.\n\n"
        + table(["test", "balanced accuracy", "ROC-AUC", "changed predictions"], tests)
        + "".join(f"\n\n{remark}" for remark in remarks)
        + f"\n\n{verdict}"
    )


def changed(test: Mapping[str, Any], metric: str) -> str:
    """Return a metric on the images that a test changed, with its interval and its control."""
    found = test[metric]
    if found is None:
        return "n/a"
    value = f"{number(found['value'])} ({interval(found)})"
    same = "" if found["difference"] is None else f"; same class {number(found['same_class'])}"
    return value + same


def shortcut_warning(report: Mapping[str, Any]) -> str:
    """Return that the model may use a shortcut, and what says so."""
    model = report["test"]["balanced_accuracy"]["value"]
    probes = " and ".join(
        f"the balanced accuracy of the {probe['name']} probe is {probe['balanced_accuracy']:.1%}"
        + (f" (mainly by {probe['leading']})" if probe["leading"] else "")
        for probe in report["probes"]
        if probe["suspicious"]
    )
    found = [f"{probes}, that of the model {model:.1%}."] if probes else []
    found += [sentence(test) for test in report["shortcut_tests"] if test["suspicious"]]
    return (
        f"Possible shortcut: {' '.join(found)} So the model's value does not show that the model "
        f"uses the content of the images."
    )


def external(report: Mapping[str, Any]) -> str:
    """Return the results on external sets."""
    if not report["external"]:
        return "No external set: performance on images from other sources is unknown."
    rows = [
        [name, label, str(entry["images"]), f"{entry['accuracy']:.3f}", f"{entry['drop']:+.3f}"]
        for name, result in report["external"].items()
        for label, entry in result["classes"].items()
    ]
    copies = sum(result["duplicates"] for result in report["external"].values())
    note = f"\n\n{copies} duplicates of the dataset's own images were excluded." if copies else ""
    return table(["set", "class", "images", "accuracy", "accuracy lost against test"], rows) + note


def limits() -> str:
    """Return what the model is for, and what it is not for."""
    return (
        "For experiments with image classification, on images from the same source as the training "
        "images. Not a medical device: do not use it for a diagnosis or for any decision about a "
        "person. The intervals show only how much the values could vary with other test images of "
        "the same source. They say nothing about images from other sources."
    )


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
    if report["shortcuts"]:
        lines.append(f"WARNING: {shortcut_warning(report)}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Return a metric with four decimals."""
    return "n/a" if value is None else f"{value:.4f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
