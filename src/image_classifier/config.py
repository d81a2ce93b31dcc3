"""Reads the settings: what Hydra composes from `conf/`, as the types and ranges of schema.py.

`make params` writes that to `params.yaml`; every stage reads it through `load`.
`python -m image_classifier.config [overrides]` prints what `conf/` composes to.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from image_classifier.errors import InputError
from image_classifier.schema import Config

CONF = Path(__file__).parents[2] / "conf"
PARAMS = Path("params.yaml")

COMPOSITION_ERRORS = (InputError, HydraException, OmegaConfBaseException)


def validate(values: Mapping[str, Any]) -> Config:
    """Return the typed configuration for nested plain values.

    Raises:
        InputError: naming every unknown key (with the nearest known one), wrong type, and
            value out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise InputError("The configuration is not valid:\n  " + "\n  ".join(lines)) from None


def load(path: Path = PARAMS) -> Config:
    """Return the typed configuration in a YAML file such as `params.yaml`.

    Raises:
        InputError: the file is missing, is not YAML, or `validate` refuses it.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: run this in the project's folder, or `make params`.")
    try:
        values = _plain(OmegaConf.load(path))
    except OSError as error:
        if error.errno is None:  # so OmegaConf says that it found neither sections nor a list
            raise InputError(f"{path} must hold sections such as dataset: and model:.") from None
        raise
    except Exception as error:  # of YAML, of OmegaConf, of the encoding
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read ({reason}): mend it, or `make params`.") from None
    return validate(values)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return what Hydra composes from `conf/` with the given overrides."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def from_hydra(composed: DictConfig) -> Config:
    """Return the typed configuration for what Hydra composed.

    Raises:
        InputError: `validate` refuses it.
    """
    return validate(_plain(composed))


def explain(error: Exception) -> str:
    """Return what a person needs of Hydra's error or ours, with the nearest valid key."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    if plugin := re.search(r"Could not find 'hydra/(launcher|sweeper)/\w+'", text):
        folder = {"launcher": "launch", "sweeper": "search"}[plugin[1]]
        return f"{plugin[0]}: install its package, which the head of a file in conf/{folder} names."
    unknown = re.search(r"full_key: (\S+)", text) or re.search(r"override '([^']+)'", text)
    if unknown is None:
        return text
    # Hydra's second line advises to add the key with a plus sign: here that is refused too
    return text.splitlines()[0] + nearest(unknown[1].lstrip("+~"))


def flatten(config: Config) -> dict[str, Any]:
    """Return every setting under its dotted name, e.g. `optimizer.learning_rate`."""
    return dict(_leaves(config.model_dump(), ""))


def nearest(key: str) -> str:
    """Return ` Did you mean …?` with the known dotted name nearest to `key`, or nothing."""
    known = set(_known_keys(Config, "")) - {key}  # that of another model is none of this one
    found = difflib.get_close_matches(key, sorted(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""


def _plain(values: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(values, resolve=True)
    if not isinstance(plain, dict):
        raise InputError(f"{PARAMS} must hold sections such as dataset: and model:.")
    plain.pop("hydra", None)
    return {str(key): value for key, value in plain.items()}


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _known_keys(section: Any, prefix: str) -> Iterator[str]:
    for kind in get_args(section) or (section,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for key, field in kind.model_fields.items():
                yield prefix + key
                yield from _known_keys(field.annotation, f"{prefix}{key}.")


def _explain(problem: Any) -> str:
    # pydantic puts what it chose among beside the key: the model's name, or a kind of threshold
    location = [str(part) for part in problem["loc"]]
    key = ".".join(
        part
        for i, part in enumerate(location)
        if not (i == 1 and location[0] == "model")
        and not part.startswith(("constrained-", "literal["))
    )
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key.{nearest(key)}"
    if problem["type"] == "missing":
        return f"{key} is missing."
    if problem["type"] == "union_tag_not_found":
        return f"{key}.name is missing."
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]["expected_tags"].replace(",", " or")
        return f"{key}.name: expected {known}, got {problem['ctx']['tag']!r}."
    if problem["type"] == "value_error":
        # without the value, which may be an address with a password in it
        return f"{key}: {problem['ctx']['error']}." if key else str(problem["ctx"]["error"])
    return f"{key}: {problem['msg']}, got {problem['input']!r}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="config", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. model=article")
    try:
        composed = compose(parser.parse_args().overrides)
        from_hydra(composed)
    except COMPOSITION_ERRORS as error:
        sys.exit(f"config: {explain(error)}")
    # as `dvc exp run` writes it, so that neither changes the other's file
    print(OmegaConf.to_yaml(composed, resolve=True), end="")
