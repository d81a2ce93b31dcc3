"""The typed configuration: every key, its type and its range; unknown keys are refused.

`conf/` is composed by Hydra into `params.yaml`; every stage reads it through `load`.
`python -m image_classifier.config [overrides]` prints what `conf/` composes to.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from image_classifier import addresses
from image_classifier.errors import InputError

CONF = Path(__file__).parents[2] / "conf"
PARAMS = Path("params.yaml")

COMPOSITION_ERRORS = (InputError, HydraException, OmegaConfBaseException)

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Timeout = Annotated[float, Field(ge=1, le=7 * 24 * 3600)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]

Address = Annotated[str, AfterValidator(addresses.check_url)]
Revision = Annotated[str, AfterValidator(addresses.check_revision)]
Subfolder = Annotated[str, AfterValidator(addresses.check_subfolder)]


class Section(BaseModel):
    """Settings that are known, typed, in range, and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Dataset(Section):
    """Where the images come from."""

    name: Name
    path: str | None
    url: Address | None
    revision: Revision | None
    subfolder: Subfolder | None
    depends_on: str | None
    positive_class: str | None
    group_pattern: Pattern | None
    source_pattern: Pattern | None
    note: str | None
    expected_counts: dict[Literal["train", "test"], Annotated[int, Field(ge=1, le=10**9)]] | None
    timeout_seconds: Timeout

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        if (self.path is None) == (self.url is None):
            raise ValueError(
                "give either dataset.path (a folder) or dataset.url (a git repository)"
            )
        return self


class Split(Section):
    """How images are dealt to training, validation and test."""

    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Seed
    leaks: Literal["drop", "stop"]
    copy_distance: Annotated[int, Field(ge=0, le=288)]
    maximum_left_out: Probability


class ExternalSet(Section):
    """A set of images to measure on and never to train on; see `Dataset` for the keys."""

    path: str | None = None
    url: Address | None = None
    revision: Revision | None = None
    subfolder: Subfolder | None = None
    timeout_seconds: Timeout = 3600

    @model_validator(mode="after")
    def _one_source(self) -> "ExternalSet":
        if (self.path is None) == (self.url is None):
            raise ValueError("an external set needs either path (a folder) or url (a repository)")
        return self


class Image(Section):
    """The size every image is prepared at, in pixels."""

    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    channels: Literal[1, 3]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels


class Augmentation(Section):
    """Random changes to training images."""

    zoom: Annotated[float, Field(ge=0, lt=1)]
    horizontal_flip: bool
    crop: Annotated[float, Field(ge=0, lt=1)]
    aspect: Annotated[float, Field(ge=0, lt=1)]
    contrast: Annotated[float, Field(ge=0, lt=1)]
    gamma: Annotated[float, Field(ge=0, lt=1)]
    equalize: Probability
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    grey: Probability


# more filters or units than a GPU's memory takes are typing errors
Filters = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=12)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class ArticleModel(Section):
    """The article's CNN."""

    name: Literal["article"]
    filters: Filters
    kernel_size: Annotated[int, Field(ge=1, le=31)]
    dense_units: Annotated[int, Field(ge=1, le=65536)]
    dropout: Dropout


class CompactModel(Section):
    """Strided convolutions with batch normalisation and global average pooling."""

    name: Literal["compact"]
    stem_kernel_size: Annotated[int, Field(ge=1, le=31)]
    stem_stride: Annotated[int, Field(ge=1, le=8)]
    filters: Filters
    dropout: Dropout
    batch_norm_momentum: Fraction


Model = Annotated[ArticleModel | CompactModel, Field(discriminator="name")]


class Optimizer(Section):
    """How weights follow gradients."""

    name: Literal["adam"]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    schedule: Literal["constant", "cosine"]


class Training(Section):
    """The training loop."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65536)]
    monitor: Literal["val_accuracy", "val_loss"]
    patience: Annotated[int, Field(ge=1, le=100_000)]
    seed: Seed
    deterministic: bool
    mixed_precision: bool
    mirrored: bool
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    stop_below_median: bool

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less or more of `monitor` is better."""
        return "min" if self.monitor == "val_loss" else "max"


class Evaluation(Section):
    """How probabilities become answers, and when a shortcut is suspected."""

    threshold: Probability | Literal["youden", "sensitivity"]
    target_sensitivity: Probability
    calibration: Literal["none", "temperature"]
    shortcut_share: Fraction


class Promotion(Section):
    """What a version must reach on the test images to become champion."""

    minimum_sensitivity: Probability
    minimum_accuracy: Probability
    accept_shortcuts: list[Literal["metadata", "border"]]


class Serving(Section):
    """What the HTTP server takes from its clients; the limits on images go with a stored model."""

    maximum_body_bytes: Annotated[int, Field(ge=1, le=2**30)] = 32 * 2**20
    maximum_images: Annotated[int, Field(ge=1, le=10_000)] = 64
    maximum_image_bytes: Annotated[int, Field(ge=1, le=2**30)] = 16 * 2**20
    maximum_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = 25_000_000
    maximum_requests_at_once: Annotated[int, Field(ge=1, le=1024)] = 4
    queue_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    read_seconds: Annotated[int, Field(ge=1, le=3600)] = 20

    @property
    def of_images(self) -> dict[str, int]:
        """The limits that a model keeps itself, as MLflow's model_config."""
        return self.model_dump(include={"maximum_images", "maximum_image_bytes", "maximum_pixels"})


class Tracking(Section):
    """Names in MLflow."""

    experiment: Annotated[str, Field(min_length=1)]
    register_models: Literal["each", "best", "none"]
    registered_model: Annotated[str, Field(pattern=r"^[^/:]+$")]


class Config(Section):
    """All settings of the pipeline."""

    dataset: Dataset
    external: dict[Name, ExternalSet]
    split: Split
    image: Image
    augmentation: Augmentation
    model: Model
    optimizer: Optimizer
    training: Training
    evaluation: Evaluation
    promotion: Promotion
    serving: Serving = Serving()  # settings stored with older runs have none
    tracking: Tracking

    @model_validator(mode="after")
    def _image_large_enough(self) -> "Config":
        smallest = 2 ** len(self.model.filters)
        too_small = min(self.image.height, self.image.width) < smallest
        # compact's convolutions are padded: they also take a single pixel
        if too_small and isinstance(self.model, ArticleModel):
            raise ValueError(
                f"image.height and image.width must be at least {smallest}: each of the "
                f"{len(self.model.filters)} entries of model.filters halves the picture"
            )
        return self


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
    found = difflib.get_close_matches(key, sorted(set(_known_keys(Config, ""))), n=1)
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
        if not (i == 1 and location[0] == "model" and part in ("article", "compact"))
        and not part.startswith(("constrained-", "literal["))
    )
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key.{nearest(key)}"
    if problem["type"] == "missing":
        return f"{key} is missing."
    if problem["type"].startswith("union_tag"):
        return f"{key}.name: expected article or compact, got {problem['ctx'].get('tag')}."
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
