"""What the screen says about a wrong setting, with the nearest one that exists."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from image_classifier.config.schema import Config


def explain_composition(error: Exception) -> str:
    """Return what to do about an error of Hydra or OmegaConf, with the nearest valid key."""
    text = str(error)
    if plugin := re.search(r"Could not find 'hydra/(launcher|sweeper)/\w+'", text):
        folder = {"launcher": "launch", "sweeper": "search"}[plugin[1]]
        return (
            f"{plugin[0]}: install its package; the first lines of the files in conf/{folder} "
            f"name it."
        )
    unknown = re.search(r"full_key: (\S+)", text) or re.search(r"override '([^']+)'", text)
    if unknown is None:
        return text
    # Hydra's second line suggests a plus sign to add the key: this project refuses that, too
    return text.splitlines()[0] + did_you_mean(unknown[1].lstrip("+~"))


def explain_validation(error: ValidationError, prefix: str = "") -> str:
    """Return one line for each wrong setting; `prefix` is the section, if the error lacks it."""
    lines = [prefix + _explain(problem) for problem in error.errors()]
    return "The configuration is not valid:\n  " + "\n  ".join(lines)


def did_you_mean(key: str) -> str:
    """Return ` Did you mean …?` with the existing key nearest to `key`, or an empty text."""
    known = set(_known_keys(Config, "")) - {key}  # known only for another model
    found = difflib.get_close_matches(key, sorted(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""


def _known_keys(section: Any, prefix: str) -> Iterator[str]:
    for kind in get_args(section) or (section,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for key, field in kind.model_fields.items():
                yield prefix + key
                yield from _known_keys(field.annotation, f"{prefix}{key}.")


def _explain(problem: Any) -> str:
    # pydantic adds the alternative it tried to the key: the model's name, or a kind of threshold
    location = [str(part) for part in problem["loc"]]
    key = ".".join(
        part
        for i, part in enumerate(location)
        if not (i == 1 and location[0] == "model")
        and not part.startswith(("constrained-", "literal["))
    )
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key.{did_you_mean(key)}"
    if problem["type"] == "missing":
        return f"{key} is missing."
    if problem["type"] == "union_tag_not_found":
        return f"{key}.name is missing."
    if problem["type"] == "union_tag_invalid":
        known = " or".join(problem["ctx"]["expected_tags"].rsplit(",", 1))
        return f"{key}.name: expected {known}, got {problem['ctx']['tag']!r}."
    if problem["type"] == "value_error":
        # without the value, which may be an address that contains a password
        return f"{key}: {problem['ctx']['error']}." if key else str(problem["ctx"]["error"])
    return f"{key}: {problem['msg']}, got {problem['input']!r}."
