"""A wrong value of any setting is refused with the name of its key, before any work."""

import copy
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import pytest
import yaml
from pydantic import BaseModel

from conftest import ROOT, choices
from image_classifier.config import compose, schema
from image_classifier.config.schema import Config
from image_classifier.errors import InputError

# a value that no key accepts: it is not a number, a text, a list, or a section with known keys
WRONG_TYPE = {"no such key": object}


def base() -> dict[str, Any]:
    """Return a complete configuration, with every optional section."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["external"] = {"north": {"path": "north"}}
    values["dataset"]["expected_counts"] = {"train": 1, "test": 1}
    values["dataset"]["classes"] = {"train": "train"}
    values["training"]["class_weights"] = {"train": 1.0}
    values["external"]["north"] |= {"classes": {"train": "train"}, "exclude": []}
    return values


@functools.cache
def base_with(model: str) -> dict[str, Any]:
    composed = compose.compose([f"model={model}"])
    return base() | {"model": compose.OmegaConf.to_container(composed.model, resolve=True)}


class Key:
    """A key of the typed configuration.

    Attributes:
        place: The keys that lead to it.
        name: Its dotted name.
        numbers: Its numeric types, each with its bounds; empty if it is not a number.
    """

    def __init__(self, place: tuple[str | int, ...], annotation: Any, metadata: list[Any]) -> None:
        self.place = place
        self.name = ".".join(str(part) for part in place)
        self.numbers = list(numbers(annotation, metadata))


def numbers(annotation: Any, metadata: list[Any]) -> Iterator[tuple[type, list[Any]]]:
    """Yield the numeric types among the types of a key, each with the constraints on it."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from numbers(inner, [*metadata, *more])
    elif annotation in (int, float):
        yield annotation, list(unpacked(metadata))
    elif get_origin(annotation) not in (Literal, list, dict):
        for alternative in get_args(annotation):
            yield from numbers(alternative, metadata)


def unpacked(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from getattr(item, "metadata", [item])


def keys(section: Any, place: tuple[str | int, ...] = ()) -> Iterator[Key]:
    """Yield every key of a section, from the fields of its pydantic model."""
    for name, field in section.model_fields.items():
        here = (*place, name)
        annotation = field.annotation
        if place == () and name == "model":
            continue  # a union: CASES lists the keys of both models
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from keys(annotation, here)
            continue
        yield Key(here, annotation, field.metadata)
        for alternative in get_args(annotation) or ():
            if get_origin(alternative) is dict or get_origin(annotation) is dict:
                kind = get_args(annotation if get_origin(annotation) is dict else alternative)[1]
                first = "north" if name == "external" else "train"
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield from keys(kind, (*here, first))
                else:
                    yield Key((*here, first), kind, [])
                break
        if get_origin(annotation) is list:
            yield Key((*here, 0), get_args(annotation)[0], [])


def with_value(values: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    target: Any = changed
    for part in place[:-1]:
        target = target[part]
    if isinstance(target, list) and not target:
        target.append(value)
    target[place[-1]] = value
    return changed


CASES = [
    *(("compact", key) for key in keys(Config)),
    *(("compact", key) for key in keys(schema.CompactModel, ("model",))),
    *(("article", key) for key in keys(schema.ArticleModel, ("model",))),
]
NUMERIC = [(model, key) for model, key in CASES if key.numbers]


def test_every_key_is_found():
    found = {key.name for _, key in CASES}
    assert set(compose.flatten(compose.load(ROOT / "params.yaml"))) - {"external"} <= found
    assert len(found) > 50
    assert {"training.epochs", "training.threads", "evaluation.threshold", "model.filters.0",
            "dataset.expected_counts.train", "external.north.timeout_seconds"} <= {
        key.name for _, key in NUMERIC}  # fmt: skip


@pytest.mark.parametrize("model", choices("model"))
def test_a_value_of_the_wrong_type_is_refused_with_its_key(model: str):
    values = base_with(model)
    for chosen, key in CASES:
        if chosen == model:
            for wrong in (WRONG_TYPE, [WRONG_TYPE]):
                with pytest.raises(InputError, match=key.name.replace(".", r"\.")):
                    compose.validate(with_value(values, key.place, wrong))


@pytest.mark.parametrize(("model", "key"), NUMERIC, ids=[key.name for _, key in NUMERIC])
def test_every_number_has_bounds_and_is_refused_outside_them(model: str, key: Key):
    values = base_with(model)
    for kind, metadata in key.numbers:
        low = [m for m in metadata if isinstance(m, annotated_types.Ge | annotated_types.Gt)]
        high = [m for m in metadata if isinstance(m, annotated_types.Le | annotated_types.Lt)]
        assert low, f"{key.name} has no lower bound"
        assert high, f"{key.name} has no upper bound"
        below = [m.gt if isinstance(m, annotated_types.Gt) else m.ge - 1 for m in low]
        above = [m.lt if isinstance(m, annotated_types.Lt) else m.le + 1 for m in high]
        wrong = [*below, *above, 10**400, "text", True]
        if kind is int:
            wrong.append(1.5)
        else:
            wrong += [float("nan"), float("inf"), float("-inf")]
        for value in wrong:
            with pytest.raises(InputError, match=rf"(?m)^  {key.name.replace('.', '[.]')}\b"):
                compose.validate(with_value(values, key.place, value))


def test_a_misspelled_key_is_refused_with_the_nearest_valid_key():
    for model, key in CASES:
        own = {"external", "expected_counts", "classes", "class_weights"}
        if key.place[-1] == 0 or (own & set(key.place[:-1])):
            continue  # it has no name, or a name that the user chose
        misspelled = (*key.place[:-1], f"{key.place[-1]}x")
        with pytest.raises(InputError, match=rf"{key.name}x: no such key.*Did you mean {key.name}"):
            compose.validate(with_value(base_with(model), misspelled, 1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=article", "image.height=8", "model.filters=[1,1,1,1]"], "must be at least 16"),
        (
            ["training.monitor=val_recall"],
            r"training\.monitor: .*'val_f1_macro' or 'val_roc_auc'",
        ),
        (["dataset.url=https://example.com/x.git"], r"dataset: give either path .* or url"),
        (["dataset.path=null"], r"dataset: give either path .* or url"),
        (["dataset.group_pattern='('"], r"dataset\.group_pattern: .*is not a regular expression"),
        (["+external.north.revision=x"], r"external\.north: give either path .* or url"),
    ],
)
def test_inconsistent_settings_are_refused_with_their_keys(overrides: list[str], message: str):
    with pytest.raises(InputError, match=message):
        compose.config_of(*overrides)


@pytest.mark.parametrize(
    "override",
    ["split.validation_fraction=1.0", "split.test_fraction=0.0", "training.epochs=0",
     "training.batch_size=0", "optimizer.learning_rate=0.0", "model.dropout=1.0",
     "augmentation.zoom=1.0", "evaluation.threshold=1.01", "split.maximum_unreadable=1.1",
     "image.height=7", "training.patience=0", "promotion.minimum_accuracy=-0.1"],
)  # fmt: skip
def test_a_value_just_out_of_range_is_refused(override: str):
    with pytest.raises(InputError, match=override.split("=")[0]):
        compose.config_of(override)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", r"params\.yaml cannot"), ("", "dataset is missing"), ("- 1", r"params\.yaml must"),
     ("3", r"params\.yaml must"), ("a: ${b}", r"params\.yaml cannot"), ("\x00", r"params\.yaml c"),
     ("a: !!python/object:os.system x", r"params\.yaml cannot"), ("training: 3", "training: "),
     ("training: {epochs: 1, epochs: 2}", r"params\.yaml cannot.*duplicate key epochs")],
)  # fmt: skip
def test_an_invalid_params_file_is_reported(empty_project: Path, text: str, message: str):
    Path("params.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        compose.load()


def test_a_params_file_in_another_encoding_is_reported(empty_project: Path):
    Path("params.yaml").write_bytes("dataset: {name: Röntgen}".encode("latin-1"))
    with pytest.raises(InputError, match=r"params\.yaml cannot"):
        compose.load()


def test_a_stage_fails_with_the_key_and_its_range_but_without_a_traceback(empty_project: Path):
    Path("params.yaml").write_text(yaml.safe_dump(with_value(base(), ("split", "seed"), -1)))
    for stage in ("fetch", "prepare"):
        result = subprocess.run(
            [sys.executable, "-m", "image_classifier", stage], capture_output=True, text=True
        )
        assert result.returncode == 1
        assert result.stderr.startswith(f"{stage}: The configuration is not valid:\n  split.seed: ")
        assert "greater than or equal to 0, got -1" in result.stderr
        assert len(result.stderr.splitlines()) == 2
    assert not Path("build").exists()
