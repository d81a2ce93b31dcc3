"""Composes the settings from conf/ with Hydra, and reads them from params.yaml, with types."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError

from image_classifier.config import resolvers
from image_classifier.config.messages import explain_validation
from image_classifier.config.schema import Config, Section
from image_classifier.errors import InputError
from image_classifier.project.files import merge_conflict

SectionType = TypeVar("SectionType", bound=Section)

CONF = Path(__file__).parents[3] / "conf"
PARAMS = Path("params.yaml")

resolvers.register()


def load(path: Path = PARAMS) -> Config:
    """Return the settings in a YAML file such as `params.yaml`.

    Raises:
        InputError: the file is missing or is not YAML, or `typed` refuses it.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise InputError(
            f"{path} not found. Run this command in the project's folder, or run `make params`."
        )
    try:
        return typed(OmegaConf.load(path))
    except InputError:
        raise
    except OSError as error:
        if error.errno is None:  # OmegaConf found neither sections nor a list
            raise InputError(f"{path} must contain sections such as dataset: and model:.") from None
        raise
    except Exception as error:  # of YAML, of OmegaConf, of the encoding
        if advice := merge_conflict(path):
            raise InputError(f"{advice} Or take the settings of conf/: `make params`.") from None
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read ({reason}): fix it, or `make params`.") from None


def replace_params(composed: DictConfig) -> None:
    """Write `params.yaml`, and print which of its settings change."""
    print_changes(composed)
    PARAMS.write_text(as_yaml(composed))


def as_yaml(composed: DictConfig) -> str:
    """Return settings as `dvc exp run` writes them, so that neither changes the other's file."""
    return OmegaConf.to_yaml(composed, resolve=True)


def print_changes(composed: DictConfig) -> None:
    """Print, on the error stream, the settings of `params.yaml` that have other values here."""
    try:
        former = dict(_settings(OmegaConf.to_container(OmegaConf.load(PARAMS)), ""))
    except FileNotFoundError:
        return
    except Exception:  # of YAML, of OmegaConf, of the encoding
        reason = "has merge conflict markers" if merge_conflict(PARAMS) else "cannot be read"
        print(f"{PARAMS} {reason}: its settings are ignored.", file=sys.stderr)
        return
    new = dict(_settings(OmegaConf.to_container(composed, resolve=True), ""))
    shown = partial(json.dumps, ensure_ascii=False, default=str)
    changed = [
        f"  {key}: {shown(value)} → {shown(new[key]) if key in new else 'dropped'}"
        for key, value in former.items()
        if key not in new or new[key] != value
    ]
    if changed:
        print("\n".join([f"These settings of {PARAMS} change:", *changed]), file=sys.stderr)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return what Hydra composes from `conf/` with the given overrides."""
    of_job = GlobalHydra.instance().hydra  # set inside a job: Hydra refuses to compose then
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides))
    finally:
        if of_job:
            GlobalHydra.instance().initialize(of_job)


def config_of(*overrides: str) -> Config:
    """Return the settings of `conf/` with the given overrides.

    Raises:
        InputError: `typed` refuses them.
        HydraException, OmegaConfBaseException: they cannot be composed.
    """
    return typed(compose(overrides))


def typed(composed: Any) -> Config:
    """Return the settings that Hydra composed, or that OmegaConf read, with types.

    Raises:
        InputError: `validate` refuses them.
    """
    plain = OmegaConf.to_container(composed, resolve=True)
    if not isinstance(plain, dict):
        raise InputError(f"{PARAMS} must contain sections such as dataset: and model:.")
    plain.pop("hydra", None)
    return validate({str(key): value for key, value in plain.items()})


def validate(values: Mapping[str, Any]) -> Config:
    """Return nested plain values as typed settings.

    Raises:
        InputError: a key is unknown (the message names the nearest one) or missing, a type is
            wrong, or a value is out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(explain_validation(error)) from None


def validate_section(kind: type[SectionType], name: str, values: Mapping[str, Any]) -> SectionType:
    """Return the plain values of one section as typed settings.

    Raises:
        InputError: see `validate`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(explain_validation(error, f"{name}.")) from None


def flatten(config: Config) -> dict[str, Any]:
    """Return every setting under its dotted name, e.g. `optimizer.learning_rate`.

    A mapping whose keys the user chooses, such as `dataset.classes`, is one setting.
    """
    return dict(_leaves(config, ""))


def selected(config: Config, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings with the given dotted names, or in the sections with these names."""
    return {
        key: value
        for key, value in flatten(config).items()
        if any(key == name or key.startswith(name + ".") for name in names)
    }


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _settings(item, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def _leaves(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section:
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "external":  # a section for each set
            for name, item in value.items():
                yield from _leaves(item, f"{prefix}{key}.{name}.")
        else:
            yield f"{prefix}{key}", value
