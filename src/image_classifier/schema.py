"""Every key of the settings, its type and its range."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from image_classifier.data import addresses

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
    depends_on: str
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
    serving: Serving
    tracking: Tracking

    @model_validator(mode="after")
    def _image_large_enough(self) -> "Config":
        if not isinstance(self.model, ArticleModel):
            return self  # padded convolutions also take a single pixel
        smallest = 2 ** len(self.model.filters)
        if min(self.image.height, self.image.width) < smallest:
            raise ValueError(
                f"image.height and image.width must be at least {smallest}: each of the "
                f"{len(self.model.filters)} entries of model.filters halves the picture"
            )
        return self
