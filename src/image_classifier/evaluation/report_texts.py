"""The sentences of the report, which its page and the model card have in common."""

from collections.abc import Mapping
from typing import Any

from image_classifier.evaluation import looks
from image_classifier.evaluation.shortcut_tests import short_sentence

SEES = {"metadata": "the file metadata", "border": "the border"}  # what a probe sees
LISTED = 5  # file names in a list; the complete lists are artifacts of the run


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
    parts = [
        f"`{report['dataset']}` from {source['source']}{commit}; manifest "
        f"`{report['manifest_digest'][:16]}`. Duplicates: {duplicates['exact_pairs']} exact and "
        f"{near_pairs(duplicates)}. Groups such as patients: {duplicates['groups'] or 'unknown'}. "
        f"Duplicates and groups are kept in one split.",
        *report["remarks"],
        *(f"Not used: {number} files ({kind})." for kind, number in report["unused"].items()),
    ]
    for key, what in (
        ("leaking_dropped", "were in two splits of the dataset, and are excluded from validation "
         "and test"),
        ("contradictions_dropped", "have a duplicate in another class, and are left out"),
    ):  # fmt: skip
        if dropped := duplicates[key]:
            named = [f"`{path}`" for path in list(dropped)[:LISTED]]
            more = f" and {len(dropped) - LISTED} more" if len(dropped) > LISTED else ""
            parts.append(f"**{len(dropped)} images {what}**: {', '.join(named)}{more}.")
    if report["skipped"]:
        parts.append(f"Skipped files: {report['skipped']}, see `data/skipped.csv` of the run.")
    if report["findings"]:
        found = [f"{sum(counts.values())} {kind}" for kind, counts in report["findings"].items()]
        parts.append(f"Findings: {', '.join(found)}; see `evaluation/findings.csv` of the run.")
    return "\n\n".join(parts)


def near_pairs(duplicates: Mapping[str, Any]) -> str:
    """Return how many near duplicates there are, and what counts as one."""
    if duplicates["distance"] is None:
        return "no search for near duplicates"
    return (
        f"{duplicates['near_pairs']} near pairs (at most {duplicates['distance']} of 576 bits of "
        f"their perceptual hashes differ)"
    )


def label_errors(report: Mapping[str, Any]) -> str:
    """Return how many labels are suspected to be wrong, the first ones, and what to do."""
    found = report["label_errors"]
    checked = f"{found['images']} of {found['of']} labels were checked"
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
        return (
            f"None of the {found['images']} labels that were checked is suspected to be wrong. A "
            f"few wrong ones may be among them, because a label is suspected only if the checked "
            f"ones together show that some are wrong. {checked} {complete}"
        )
    splits = ", ".join(
        f"{entry['suspected']} in {split}"
        for split, entry in found["by_split"].items()
        if entry["suspected"]
    )
    return (
        f"**{found['suspected']} labels are suspected to be wrong** ({splits}): each is more "
        f"probably wrong than right. Estimated share of wrong labels among those checked: "
        f"{found['estimated_share']:.1%}. {checked} {complete} Look at the image: it may "
        f"also be an unusual one. If the label is wrong, add a line `path,label,reason` to "
        f"corrections.csv (the label `drop` leaves the image out), then `dvc repro`. Corrections "
        f"of test labels that only follow the model make its test metrics too good: look at other "
        f"test images, too. Classes that are often confused in the labels themselves look like "
        f"hard images, and are not found."
    )


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


def looked_at(report: Mapping[str, Any]) -> str:
    """Return how often the test set was looked at, and whether fresh images are due."""
    due = looks.due(report["ledger"])
    return looks.sentence(report["ledger"]) + (f" **{due}**" if due else "")


def weak_spots(report: Mapping[str, Any]) -> str:
    """Return the kinds of test images on which the model is clearly worse."""
    found = report["weak_spots"]
    if not found["tried"]:
        return "There are too few test images to compare kinds of them."
    few = found["too_small"]
    return (
        f"{found['tried']} kinds of test images were compared with the others (by source, size of "
        f"the group, brightness, size, and clusters of similar images), each class with the same "
        f"class; images of one group and class count once."
        + (f" {len(few)} more were too small to be compared." if few else "")
        + "".join(f"\n\n**{sentence}.**" for sentence in found["sentences"])
        + ("\n\nWeak spots may share images." if len(found["sentences"]) > 1 else "")
        + (
            ""
            if found["sentences"]
            else " On none of them is the model clearly worse: no interval, corrected for the "
            "number of kinds, is above 0. With few images, only a large difference is clear."
        )
    )


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
            "No repeat of this training is known, with another seed or other training images, so "
            "how much the result varies with them is not known. `image-classifier train "
            "--multirun search=folds` measures it, then `dvc repro -f -s evaluate` writes it here."
        )
    return " ".join(lines)


def doubt(report: Mapping[str, Any]) -> str:
    """Return how often the true class is plausible, and how often an image is unusual."""
    found = report["doubt"]
    sizes = [f"{number} for {images}" for number, images in enumerate(found["sizes"]) if images]
    once = ", each patient or group counting once," if report["duplicates"]["groups"] else ""
    parts = [
        f"Each prediction lists the plausible classes: the predicted one, the most probable one, "
        f"and those with a probability of at least {found['plausible_limit']:.4g}. This limit "
        f"comes from {found['validation_clusters']} independent validation images, so that, on "
        f"average, the true class is plausible for at least {found['coverage']:.4g} of new images "
        f"from the same source{once} or a little less, because epoch and temperature were chosen "
        f"on the same images. With so many validation images, 95% of such models reach "
        f"{spread_of(found['range'])}, or more. On the test images{once} it is "
        f"{share(found['covered'])}. Number of plausible classes: {', '.join(sizes)} test images.",
        "This is promised for all classes together, if each class has the same share of the new "
        "images as of the validation images.",
        f"An image is unusual when it is less like the training images than "
        f"{found['unusual_percentile']:g}% of the validation images. Of new images from the same "
        f"source, at most about {100 - found['unusual_percentile']:g}% are on average, for 95% of "
        f"such models {spread_of(found['unusual_range'])}; of the test images "
        f"{share(found['unusual'])}.",
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
        f"{share(found['share'])} of the test images; {others}. All other metrics are of the "
        f"predicted classes, without `unknown`."
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


def shortcut_verdict(report: Mapping[str, Any]) -> str:
    """Return in short what the probes and the tests of the model found."""
    model = report["test"]["balanced_accuracy"]["value"]
    equal = [
        probe["name"] for probe in report["probes"]
        if probe["balanced_accuracy"] >= model and not probe["suspicious"]
    ]  # fmt: skip
    if report["shortcuts"]:
        return "**Possible shortcut.** " + " ".join(shortcut_warnings(report))
    if equal:
        return (
            f"**The balanced accuracy of the model is not higher than that of the probe "
            f"{' and '.join(equal)}, which is not above chance: its predictions for the test "
            f"images are no better than guessing.**"
        )
    return (
        "No probe and no test reaches the limit from which a shortcut is suspected "
        "(`evaluation.shortcut_threshold`). Other shortcuts were not searched for."
    )


def shortcut_warnings(report: Mapping[str, Any]) -> list[str]:
    """Return what suggests that the model uses a shortcut, each as a sentence."""
    model = report["test"]["balanced_accuracy"]["value"]
    probes = [
        f"A classifier that sees only {SEES[probe['name']]} reaches a balanced accuracy of "
        f"{probe['balanced_accuracy']:.1%}"
        + (f" (its most important feature: {probe['leading']})" if probe["leading"] else "")
        + f"; the model reaches {model:.1%}."
        for probe in report["probes"]
        if probe["suspicious"]
    ]
    tests = [short_sentence(test) for test in report["shortcut_tests"] if test["suspicious"]]
    return [*tests, *probes]


def limits() -> str:
    """Return what the model is for, and what it is not for."""
    return (
        "For experiments with image classification, on images from the same source as the training "
        "images. Not a medical device: do not use it for a diagnosis or for any decision about a "
        "person. The intervals show only how far the values of this model may be from those on all "
        "images of the same source. They say nothing about images from other sources."
    )


def interval(entry: Mapping[str, float | None]) -> str:
    """Return the ends of an interval."""
    return f"{number(entry['low'])} to {number(entry['high'])}"


def chance_of(report: Mapping[str, Any], name: str) -> str:
    """Return what chance reaches in a metric, or nothing where it is not defined."""
    value = report["chance"].get(name)
    return "" if value is None else number(value)


def number(value: float | None) -> str:
    """Return a metric with four decimals."""
    return "n/a" if value is None else f"{value:.4f}"
