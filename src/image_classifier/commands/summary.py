"""summary: shows the results of the pipeline, and the commands to look at them and use them."""

import argparse
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from image_classifier.config.compose import PARAMS, config_of, load
from image_classifier.errors import InputError
from image_classifier.evaluation import looks
from image_classifier.evaluation.metrics import HEADLINE
from image_classifier.evaluation.report_texts import number
from image_classifier.project import paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the summary; return the exit code.

    Raises:
        InputError: the pipeline has not run.
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
Compare     dvc exp show                    or select runs in the MLflow UI
Serve       image-classifier serve --model {uri}
Predict     image-classifier predict {paths.RAW} --model {uri}""")
    if config != config_of():
        print(
            f"\n{PARAMS} differs from the defaults in conf/: an experiment changed it. "
            f"`make params` writes the defaults again."
        )
    return 0


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
