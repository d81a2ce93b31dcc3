"""summary: shows the results of the pipeline, and the commands to look at them and use them.

image-classifier summary
image-classifier summary --against main    # as Markdown, for a pull request
"""

import argparse
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from image_classifier.config.compose import PARAMS, config_of, load
from image_classifier.errors import InputError
from image_classifier.evaluation import looks
from image_classifier.evaluation.metrics import HEADLINE
from image_classifier.evaluation.model_card import table
from image_classifier.evaluation.report_texts import chance_of, interval, number
from image_classifier.project import paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="print Markdown: the gate's decision, and the metrics beside those of a commit",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the summary; return the exit code.

    Raises:
        InputError: the pipeline has not run, or the other commit has no metrics.
    """
    config = load()
    files = (
        paths.FETCHED,
        paths.SPLIT,
        paths.PREPARED,
        paths.REPORT,
        paths.TRAIN / paths.RUN,
        paths.DECISION,
    )
    if missing := [str(path) for path in files if not path.is_file()]:
        raise InputError(f"{', '.join(missing)} not found: run `dvc repro`.")
    fetched, split, prepared, report, trained, decision = (
        json.loads(path.read_text()) for path in files
    )
    if arguments.against:
        print(against(arguments.against, report, decision))
        return 0

    uri = f"models:/{decision['name']}/{decision['version']}"
    print(f"\nDataset     {config.dataset.name} from {fetched['source']}")
    if config.dataset.note:
        print(f"            {config.dataset.note}")
    unused = [f"{number} {kind}" for kind, number in fetched["unused"].items()]
    if split["skipped"]:
        unused.append(f"{split['skipped']} skipped, see {paths.SKIPPED}")
    if unused:
        print(wrapped("Not used    ", "; ".join(unused)))
    for remark in [*split["remarks"], *prepared["remarks"]]:
        print(wrapped("            ", remark))
    print(f"Model       {config.model.name}")
    print(wrapped("Test        ", ", ".join(test_metrics(report))))
    if report["ledger"]["looks"] > 1:
        print(wrapped("            ", looks.sentence(report["ledger"])))
        if due := looks.due(report["ledger"]):
            print(wrapped("            ", due))
    severe = [
        caveat["text"]
        for caveat in report["caveats"]
        if caveat["severe"] and caveat["text"] != config.dataset.note
    ]
    for caveat in severe:
        print(wrapped("            ", caveat.replace("`", "")))
    print(f"Report      {paths.REPORT_PAGE}")
    print(f"MLflow run  {trained['run_id']}")
    print(f"Registered  {uri}")
    if decision["champion"]:
        print("            champion")
        uri = f"models:/{decision['name']}@champion"
    else:
        print(f"            not champion: {'; '.join(decision['reasons'])}")
    print(f"""
Activate    source .venv/bin/activate
Look        make ui                         then http://127.0.0.1:5000
Compare     make compare                    or select runs in the MLflow UI
Serve       image-classifier serve --model {uri}
Predict     image-classifier predict {paths.RAW} --model {uri}""")
    if config != config_of():
        print(
            f"\n{PARAMS} differs from the defaults in conf/: an experiment changed it. "
            f"`make params` writes the defaults again."
        )
    return 0


def against(commit: str, report: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    """Return the model beside that of another commit, as Markdown.

    Raises:
        InputError: the commit does not exist, or has no metrics.
    """
    import dvc.api
    from dvc.exceptions import DvcException

    file = str(paths.EVALUATE / paths.METRICS)
    try:
        before = dvc.api.metrics_show(file, rev=commit)
    except DvcException as error:
        raise InputError(f"{file} of the commit {commit} cannot be read: {error}") from None
    images = sum(map(sum, report["confusion"]))
    refusal = "; ".join(decision["reasons"])
    parts = [
        f"**The gate refuses this model**: {refusal}."
        if refusal
        else "**The gate accepts this model.**",
        "" if refusal else compared(decision["comparison"]),
        f"On {images} test images:",
        table(
            ["metric", commit, "this branch", "95% interval", "chance"],
            [
                [
                    name,
                    number(before.get(name)),
                    number(entry["value"]),
                    interval(entry),
                    chance_of(report, name),
                ]
                for name in (*HEADLINE, "roc_auc_macro")
                if (entry := report["test"].get(name))
            ],
        ),
        "\n".join(f"- {caveat['text']}" for caveat in report["caveats"] if caveat["severe"]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def compared(comparison: Mapping[str, Any] | None) -> str:
    """Return how much better a version is than the champion that it was compared with."""
    if comparison is None:
        return "It was not compared with another model."
    metric, level = comparison["metric"], looks.percent(comparison["level"])
    return (
        f"{metric} {comparison['challenger']:.4f}, champion (version "
        f"{comparison['champion_version']}) {comparison['champion']:.4f}, on the same "
        f"{comparison['images']} test images; {level} interval of the difference: "
        f"{comparison['difference_low']:+.4f} to {comparison['difference_high']:+.4f}."
    )


def test_metrics(report: Mapping[str, Any]) -> list[str]:
    """Return each test metric, and beside the headline metrics what chance reaches."""
    texts = []
    for name, entry in report["test"].items():
        chance = report["chance"].get(name) if name in HEADLINE else None
        beside = "" if chance is None else f" (chance {number(chance)})"
        texts.append(f"{name} {number(entry['value'])}{beside}")
    return texts


def wrapped(title: str, text: str) -> str:
    """Return a text as lines of 88 characters, with a title of 12 before the first."""
    return textwrap.fill(text, 88, initial_indent=title, subsequent_indent=" " * 12)
