"""promote: makes the evaluated version champion, or says why not.

Takes the registered version that evaluate measured. It needs the floors of `promotion` and, where
there is a champion, a higher accuracy on the same test images. Gives the alias `champion` (or
`challenger`, to one that passes the floors but not the champion) and the decision.
"""

import json
from collections.abc import Mapping

from image_classifier import paths
from image_classifier.command_line import run_stage
from image_classifier.config import Config, Promotion
from image_classifier.errors import InputError


def promote(config: Config) -> None:
    """Decide, and set the alias.

    Raises:
        InputError: evaluate has not run, or the MLflow store lacks the version.
    """
    if not paths.EVALUATED.is_file():
        raise InputError(f"{paths.EVALUATED} not found: run `dvc repro evaluate`.")
    evaluated = json.loads(paths.EVALUATED.read_text())
    from image_classifier import tracking  # imports MLflow

    challenger = tracking.get_version(evaluated["name"], evaluated["version"])
    champion = tracking.champion(evaluated["name"])
    below = below_floors(challenger.tags, config.promotion)
    worse = []
    if champion and champion.version != challenger.version:
        worse = not_better(challenger.tags, champion.tags, champion.version)

    reasons = below + worse
    if not reasons:
        tracking.set_alias(challenger, tracking.CHAMPION)
        tracking.remove_alias(challenger.name, tracking.CHALLENGER)
    elif not below:
        tracking.set_alias(challenger, tracking.CHALLENGER)
    decision = {
        "name": challenger.name,
        "version": challenger.version,
        "champion": not reasons,
        "champion_before": champion.version if champion else None,
        "reasons": reasons,
    }
    paths.DECISION.parent.mkdir(parents=True, exist_ok=True)
    paths.DECISION.write_text(json.dumps(decision, indent=2) + "\n")
    tracking.tag_version(challenger, {"promotion": "; ".join(reasons) or "champion"})
    if reasons:
        print(f"{challenger.uri} is not made champion: {'; '.join(reasons)}.")
    else:
        print(f"{challenger.uri} is champion.")


def below_floors(tags: Mapping[str, str], floors: Promotion) -> list[str]:
    """Return the floors that a version's test figures do not reach, as sentences."""
    limits = {
        "test_accuracy": floors.minimum_accuracy,
        "test_sensitivity": floors.minimum_sensitivity,
    }
    return [
        f"{name} {float(tags[name]):.4f} is below the floor of {floor:g}"
        for name, floor in limits.items()
        if name in tags and float(tags[name]) < floor
    ]


def not_better(tags: Mapping[str, str], champion: Mapping[str, str], version: str) -> list[str]:
    """Return why a version does not beat the champion, as sentences."""
    if tags["test_rows"] != champion.get("test_rows"):
        return [
            f"the champion, version {version}, was measured on other test images: to start anew, "
            f"take its alias away on the model's page in the MLflow UI"
        ]
    ours, theirs = float(tags["test_accuracy"]), float(champion["test_accuracy"])
    if ours <= theirs:
        return [f"test_accuracy {ours:.4f} does not beat the {theirs:.4f} of version {version}"]
    return []


if __name__ == "__main__":
    run_stage(promote)
