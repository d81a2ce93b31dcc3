"""What the screen says about a wrong setting, with the nearest one that exists."""

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from pydantic import BaseModel, ValidationError

from image_classifier.config.schema import Config
from image_classifier.project.files import merge_conflict


def explain_composition(error: Exception, words: Sequence[str] = ()) -> str:
    """Return what to do about an error of Hydra or OmegaConf.

    Args:
        error: What they raised.
        words: The arguments of the command, to find the one that cannot be read.
    """
    text = str(error)
    if plugin := re.search(r"Could not find 'hydra/(launcher|sweeper)/\w+'", text):
        folder = {"launcher": "launch", "sweeper": "search"}[plugin[1]]
        return (
            f"{plugin[0]}: install its package; the first lines of the files in conf/{folder} "
            f"name it."
        )
    sweep = bool({"--multirun", "-m"} & set(words))
    if advice := next(filter(None, (_advice(word, sweep) for word in words)), None):
        return advice
    unknown = re.search(r"full_key: (\S+)", text) or re.search(r"override '([^'=]+)", text)
    if unknown is None:
        return text
    # Hydra's second line suggests a plus sign to add the key: this project refuses that, too
    return text.splitlines()[0] + did_you_mean(unknown[1].lstrip("+~"))


def _advice(word: str, sweep: bool) -> str:
    """Return what is wrong with the form of an override, with a line that works; or nothing."""
    if word.startswith(("-", "~")):  # an option, or a key that Hydra is to delete
        return ""
    key, equal, value = word.partition("=")
    if not equal:
        return f"{word}: write KEY=VALUE, without spaces." + did_you_mean(key)
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return f"{word}: Hydra cannot read this value. Quote it twice: {quoted(key, value)}"
    if override.is_sweep_override() and "," in value and not sweep:
        return (
            f"{word}: a comma separates the values of a sweep (--multirun). If it belongs to the "
            f"value: {quoted(key, value)}"
        )
    return ""


def quoted(key: str, value: str) -> str:
    """Return an override as it is typed in a shell, so that Hydra takes the value as a text."""
    return shlex.quote(f"{key}={as_hydra_text(value)}")


def as_hydra_text(value: str) -> str:
    """Return a value with quotes, so that Hydra takes it as a text.

    Source: https://hydra.cc/docs/advanced/override_grammar/basic/#quoted-values: a backslash
    escapes a quote, and a backslash before a quote.
    """
    before_quotes = re.sub(r"(\\*)'", lambda found: rf"{found[1] * 2}\'", value)
    end = re.search(r"\\*$", before_quotes)
    return f"'{before_quotes}{end[0] if end else ''}'"


def explain_yaml(error: yaml.MarkedYAMLError) -> str:
    """Return what to do about a file of `conf/`, or another, that is not YAML."""
    mark = error.problem_mark or error.context_mark
    file = Path(mark.name if mark else "the file")
    if advice := merge_conflict(file):
        return f"{advice} Then run `make params`, or `dvc repro`."
    line = f"line {mark.line + 1}: " if mark else ""
    return f"{file} cannot be read as YAML ({line}{error.problem})."


def explain_validation(error: ValidationError, prefix: str = "") -> str:
    """Return one line for each wrong setting; `prefix` is the section, if the error lacks it."""
    lines = [prefix + _explain(problem) for problem in error.errors()]
    return "The configuration is not valid:\n  " + "\n  ".join(lines)


def did_you_mean(key: str) -> str:
    """Return ` Did you mean …?` with the nearest key that exists, or an empty text."""
    known = set(_known_keys(Config, ""))
    if key in known:
        return " It belongs to another model." if key.startswith("model.") else ""
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
        and not part.startswith(("constrained-", "literal[", "dict["))
    )
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key.{did_you_mean(key)}"
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        return (
            f"{key} is a text, but {problem['input']!r} is not: YAML and Hydra read 1, 1e3, "
            f"2024_01, true and no as numbers or truth values. Quote it: {key}: '…' in a file, "
            f"\"{key}='…'\" on the command line."
        )
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
