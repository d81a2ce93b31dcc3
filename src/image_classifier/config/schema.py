"""Every setting: its type, its range, and what it means.

The descriptions are the text of docs/configuration.md.
"""

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)

from image_classifier.config import git_address

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Timeout = Annotated[float, Field(ge=1, le=7 * 24 * 3600)]
Weight = Annotated[float, Field(gt=0, le=1e6)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)]

# what `training.start_from` names: a version by number or alias, or a run
Start = Annotated[str, Field(pattern=r"^(models:/[^/:@]+(/[0-9]+|@[^/:@]+)|[0-9a-f]{32})$")]

PROBABILITY = TypeAdapter(Probability)  # checks a threshold that is not a setting
Counts = dict[Literal["train", "test"], Annotated[int, Field(ge=1, le=10**9)]]


# what MLflow takes in the address models:/NAME/VERSION
ModelName = Annotated[
    str,
    Field(pattern=r"^[^\s./:@#?]([^\x00-\x1f/:@#?]*[^\s./:@#?])?$", max_length=200),
]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
Address = Annotated[str, AfterValidator(git_address.check_url)]
Revision = Annotated[str, AfterValidator(git_address.check_revision)]
Subfolder = Annotated[str, AfterValidator(git_address.check_subfolder)]


def sign_of(metric: str) -> int:
    """Return 1 when lower values of a metric are better (a loss), -1 when higher ones are.

    The best value is the one for which sign * value is lowest.
    """
    return 1 if metric.endswith("loss") else -1


class Section(BaseModel):
    """A section of settings: unknown keys are refused, values are typed and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ImageSource(Section):
    """A folder or a git repository of images."""

    path: str | None = Field(
        default=None,
        description="The folder of the dataset.",
    )
    url: Address | None = Field(
        default=None,
        description="A git repository, instead of `path`: https://…, ssh://… or user@host:path, or "
        "the path of a local one.",
    )
    revision: Revision | None = Field(
        default=None,
        description="A branch, tag or commit of the repository; null: its default branch.",
    )
    subfolder: Subfolder | None = Field(
        default=None,
        description="The folder inside the repository that contains the class folders, or `train/` "
        "and `test/`.",
    )
    timeout_seconds: Timeout = Field(
        default=3600, description="How long the download of a repository may take, in seconds."
    )
    include: list[str] | None = Field(
        default=None,
        description="Patterns as in .gitignore. Only files that match are used, even if they "
        "look like masks. null: all images that do not look like masks.",
    )
    exclude: list[str] = Field(
        default=[], description="Patterns as in .gitignore, of files that are not used."
    )
    links_into: str | None = Field(
        default=None,
        description="A folder outside the dataset. Symbolic links in the dataset are followed if "
        "they lead into this folder.",
    )
    table: str | list[str] | None = Field(
        default=None,
        description="A CSV or TSV file with the labels, relative to the dataset's folder, or a "
        "list of files, such as one for each split; null: folders are the classes.",
    )
    path_column: str = Field(
        default="path",
        description="The table's column of paths or names of images, with or without the ending.",
    )
    label_column: str | list[str] | None = Field(
        default="label",
        description="The table's column of labels; or a list of columns of 0 and 1, one for each "
        "class; null: folders are the classes, and the table has splits, groups or sources.",
    )
    split_column: str | None = Field(
        default="split", description="The table's column of splits, used where the table has it."
    )
    group_column: str | None = Field(
        default="group", description="The table's column of groups, used where the table has it."
    )
    source_column: str | None = Field(
        default="source", description="The table's column of sources, used where the table has it."
    )
    classes: dict[str, str] | None = Field(
        default=None,
        description="The class of each label, e.g. `{cat: cat, kitten: cat, dog: dog}`. Other "
        "labels are left out. null: every label is a class.",
    )
    maximum_unused: Probability = Field(
        default=0.1,
        description="`fetch` fails when more than this share of the images is not used, for "
        "example because they are outside every class folder. Images that a setting excludes do "
        "not count.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ImageSource":
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path (a folder) or url (a git repository)")
        return self


class Dataset(ImageSource):
    """The images to train, validate and test on."""

    name: Name = Field(
        description="Name of the dataset. The registered model's name begins with it."
    )
    depends_on: str = Field(
        description="The file or folder that DVC watches: when it changes, `fetch` runs again. By "
        "default `path`, absolute if neither git nor DVC tracks it. DVC itself reads a value that "
        "you give, without replacing `~`."
    )
    positive_class: str | None = Field(
        description="The class that sensitivity and the threshold refer to. Required with two "
        "classes."
    )
    group_pattern: Pattern | None = Field(
        description="A regular expression that is searched in each path. The text in its first "
        "parentheses names the patient, animal or video; images with the same name stay in one "
        "split."
    )
    source_pattern: Pattern | None = Field(
        description="A regular expression that is searched in each path. The text in its first "
        "parentheses names the source; metrics are also reported for each source."
    )
    corrections: Annotated[str, Field(min_length=1)] = Field(
        description="A CSV file with the columns `path`, `label` and `reason`: the images whose "
        "label is wrong, each with the right label, or with `drop` to leave the image out. Paths "
        "are as in `build/labels.csv`. DVC itself reads the setting, without replacing `~`."
    )
    note: str | None = Field(description="A remark that is shown with every metric.")
    expected_counts: Counts | None = Field(
        description="How many images train/ and test/ must have, e.g. `{train: 10, test: 5}`; "
        "`fetch` fails on another number."
    )


class ExternalSet(ImageSource):
    """Images from another source, to measure on and never to train on."""


class Split(Section):
    """How images are assigned to training, validation and test."""

    validation_fraction: Fraction = Field(
        description="Share of the training images that becomes the validation split."
    )
    test_fraction: Fraction = Field(
        description="Share of all images that becomes the test split. Used only when the dataset "
        "has no test split of its own."
    )
    seed: Seed = Field(description="Seed of the random split.")
    leaks: Literal["drop", "stop"] = Field(
        description="What to do with validation and test images that also occur in training, and "
        "test images that occur in validation: drop them from validation and test, or stop "
        "with an error."
    )
    contradictions: Literal["stop", "drop"] = Field(
        description="What to do with images that are in two classes: stop with an error, or drop "
        "all copies of them."
    )
    duplicate_distance: Annotated[int, Field(ge=0, le=288)] | None = Field(
        description="Two images are near duplicates when at most this many of the 576 bits of "
        "their perceptual hashes differ. null: only files with equal content are duplicates."
    )
    folds: Annotated[int, Field(ge=2, le=100)] = Field(
        description="Number of folds for cross-validation: every image outside the test split is "
        "assigned to one of them. See `training.fold`."
    )
    maximum_unreadable: Probability = Field(
        description="Share of files that may be unreadable. With more, `split` fails."
    )


class Image(Section):
    """The size of every prepared image."""

    height: Annotated[int, Field(ge=8, le=4096)] = Field(description="Height in pixels.")
    width: Annotated[int, Field(ge=8, le=4096)] = Field(description="Width in pixels.")
    channels: Literal[1, 3] = Field(description="3 for RGB, 1 for grey.")
    fit: Literal["squash", "pad", "crop"] = Field(
        description="How other shapes fit: `squash` changes the aspect ratio, `pad` adds black at "
        "two sides, `crop` cuts off two sides."
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels


class Augmentation(Section):
    """Random changes to training images."""

    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Height and width are scaled separately, by factors from 1 - zoom to 1 + zoom."
    )
    horizontal_flip: bool = Field(description="Flips half of the images left to right.")
    crop: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Cuts out a random part of at least 1 - crop of the area, and enlarges it to "
        "the whole image. 0: off."
    )
    aspect: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Multiplies the aspect ratio of the part that `crop` cuts out by a random "
        "factor from 1 - aspect to 1 / (1 - aspect). 0: off."
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Scales contrast by a factor from 1 - contrast to 1 + contrast. 0: off."
    )
    gamma: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Raises brightness to a power from 1 - gamma to 1 / (1 - gamma). 0: off."
    )
    equalize: Probability = Field(description="Share of images whose histogram is equalized.")
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = Field(
        description="Compresses images as JPEG with a quality from this value to 100. 100: off."
    )
    grey: Probability = Field(description="Share of images that are converted to grey.")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        description="Turns images by at most this many degrees to either side. 0: off."
    )
    translation: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Moves images by at most this share of their height and width. 0: off."
    )
    saturation: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Scales saturation by a factor from 1 - saturation to 1 + saturation. 0: off."
    )
    hue: Annotated[float, Field(ge=0, le=180)] = Field(
        description="Turns the hue by at most this many degrees on the colour circle. 0: off."
    )
    trivial: Probability = Field(
        description="Share of images that get one operation of TrivialAugment, with a random "
        "strength."
    )
    erasing: Probability = Field(
        description="Share of images in which a random rectangle, 2% to 33% of the area, is "
        "replaced by noise."
    )
    mixup: Annotated[float, Field(ge=0, le=10)] = Field(
        description="Mixes pairs of images and their labels. The share of the first is drawn from "
        "a beta distribution, Beta(mixup, mixup). 0: off."
    )
    cutmix: Annotated[float, Field(ge=0, le=10)] = Field(
        description="Replaces a rectangle of an image by that of another one, and mixes the labels "
        "by area. The area is drawn from Beta(cutmix, cutmix). 0: off. With `mixup`, half of the "
        "images are mixed in either way."
    )


# more filters or units than fit into a GPU's memory are typing errors
Filters = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=12)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class ArticleModel(Section):
    """The article's CNN."""

    name: Literal["article"] = Field(description="The architecture: see `architectures.py`.")
    filters: Filters = Field(
        description="Filters of each block: a convolution, 2 x 2 max-pooling and dropout."
    )
    kernel_size: Annotated[int, Field(ge=1, le=31)] = Field(
        description="Rows and columns of every convolution."
    )
    dense_units: Annotated[int, Field(ge=1, le=65536)] = Field(
        description="Units of the layer before the output. It has nearly all the parameters."
    )
    dropout: Dropout = Field(description="Dropout rate after every block and before the output.")


class CompactModel(Section):
    """Strided convolutions with batch normalisation and global average pooling."""

    name: Literal["compact"] = Field(description="The architecture: see `architectures.py`.")
    stem_kernel_size: Annotated[int, Field(ge=1, le=31)] = Field(
        description="Rows and columns of the first convolution."
    )
    stem_stride: Annotated[int, Field(ge=1, le=8)] = Field(
        description="Stride of the first convolution, in pixels. A stride of 2 doubles the time of "
        "a training step."
    )
    filters: Filters = Field(
        description="Filters of each block. Every block after the first halves height and width."
    )
    dropout: Dropout = Field(description="Dropout rate before the output.")
    batch_norm_momentum: Fraction = Field(
        description="Momentum of the running means of batch normalisation. Keras's default, 0.99, "
        "is too slow for a few dozen steps an epoch."
    )


class PretrainedModel(Section):
    """A model that was trained on other images, with a new last layer."""

    name: Literal["pretrained"] = Field(description="The architecture: see `architectures.py`.")
    backbone: Annotated[str, Field(min_length=1)] = Field(
        description="A model of `keras.applications`, such as `EfficientNetV2B0`, or the path of a "
        "`.keras` file: a Keras model without its last layer."
    )
    weights: str | None = Field(
        description="`imagenet`, a file of weights, or null: random weights. A `.keras` file has "
        "its own."
    )
    license: str | None = Field(
        description="The license of the weights, for the model card. null: that of the weights "
        "`imagenet` is looked up; for a file it is not known."
    )
    dropout: Dropout = Field(description="Dropout rate before the output.")

    @property
    def is_file(self) -> bool:
        """Whether the backbone is a file of Keras, which has its own weights."""
        return self.backbone.endswith(".keras")

    @property
    def is_trained(self) -> bool:
        """Whether the backbone has learnt anything."""
        return self.weights is not None or self.is_file


Model = Annotated[ArticleModel | CompactModel | PretrainedModel, Field(discriminator="name")]


class Optimizer(Section):
    """How gradients change the weights."""

    name: Literal["adam", "adamw", "sgd"] = Field(
        description="The optimizer; `sgd` with Nesterov momentum 0.9."
    )
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Weight decay. Only with `adamw` and `sgd`."
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(
        description="Learning rate of the first step."
    )
    schedule: Literal["constant", "cosine"] = Field(
        description="`cosine` lowers the learning rate to 0 over the training."
    )
    warm_up: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Share of the steps in which the learning rate rises from 0. Only with "
        "`cosine`."
    )
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        description="Gradients whose norm over all weights is larger are scaled down to it. null: "
        "no clipping."
    )
    average: Fraction | None = Field(
        description="Momentum of a moving average of the weights, such as 0.99. It is validated "
        "and kept instead of the last weights. null: no average."
    )


class Training(Section):
    """The training loop."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="Largest number of epochs; with a pretrained backbone, those of the last layer."
    )
    start_from: Start | None = Field(
        description="The registered version whose weights are the first ones: `models:/NAME/3`, "
        "`models:/NAME@champion`, or the id of its MLflow run. Classes may be added or removed. A "
        "pretrained backbone is only fine-tuned then. null: random weights, or the backbone's own."
    )
    fine_tune: Literal["none", "top", "all"] = Field(
        description="Which layers of a pretrained backbone are trained after the last layer: none, "
        "the top blocks, or all. Other models ignore it."
    )
    fine_tune_blocks: Annotated[int, Field(ge=1, le=100)] = Field(
        description="With `fine_tune=top`: how many blocks are trained, from the output down. A "
        "block is all layers whose feature maps have the same size."
    )
    fine_tune_epochs: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = Field(
        description="Epochs in which the backbone is trained, too. `auto`: about 200 steps, in 3 "
        "to 20 epochs."
    )
    fine_tune_learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(
        description="Learning rate of the backbone in these epochs. It rises in the first of them, "
        "and then falls to 0."
    )
    fine_tune_head_factor: Annotated[float, Field(ge=1, le=1000)] = Field(
        description="In these epochs the learning rate of the last layer is so many times that of "
        "the backbone."
    )
    batch_size: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = Field(
        description="Images in a step. `auto` tries 512, and half of it until the memory of the "
        "GPU is enough."
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        description="`focal` gives images that are classified well less weight."
    )
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = Field(
        description="How much less. Only with `loss=focal`."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Share of a label that is spread evenly over all classes. 0: off."
    )
    class_weights: Literal["balanced"] | dict[str, Weight] | None = Field(
        description="Weight of each class in the loss: `balanced` makes it inversely proportional "
        "to the number of training images; or a number for each class, such as `{cat: 1, dog: 3}`."
    )
    sampling: Literal["natural", "balanced"] = Field(
        description="`balanced` shows each class equally often in an epoch; images of rare classes "
        "are repeated, each time with another augmentation."
    )
    monitor: Literal[
        "val_loss", "val_accuracy", "val_balanced_accuracy", "val_f1_macro", "val_roc_auc"
    ] = Field(
        description="The metric that selects the best epoch, and decides about early stopping. "
        "With unequal classes, `val_balanced_accuracy` or `val_f1_macro`."
    )
    patience: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="The training stops after this many epochs without a better value."
    )
    seed: Seed = Field(
        description="Seed of the initial weights, the order of images, augmentation and dropout."
    )
    fold: Annotated[int, Field(ge=0, le=99)] | None = Field(
        description="For cross-validation: the images of this fold, counted from 0, are the "
        "validation split; all others outside the test split are for training. null: the splits of "
        "the manifest."
    )
    deterministic: bool = Field(
        description="The same seed and number of threads give the same weights, to the last bit."
    )
    mixed_precision: bool = Field(description="Computes in float16. Needs a GPU.")
    mirrored: bool = Field(
        description="Spreads every batch over all GPUs (MirroredStrategy). Needs two or more GPUs."
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        description="CPU threads for one operation; null: one for each core. Another number "
        "changes the last bits of the weights."
    )
    stop_below_median: bool = Field(
        description="In a sweep: stops a job whose best value is worse than the median of finished "
        "jobs."
    )

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether a lower or a higher value of `monitor` is better."""
        return "min" if sign_of(self.monitor) == 1 else "max"

    @property
    def fine_tunes(self) -> bool:
        """Whether a pretrained backbone is trained, too."""
        return self.fine_tune != "none"

    @property
    def images_per_step(self) -> int:
        """`batch_size` as a number.

        Raises:
            ValueError: it is `auto`, and `automatic.resolved` has not replaced it.
        """
        if self.batch_size == "auto":
            raise ValueError("training.batch_size=auto was not replaced by a number")
        return self.batch_size

    @property
    def fine_tune_epochs_number(self) -> int:
        """`fine_tune_epochs` as a number.

        Raises:
            ValueError: it is `auto`, and `automatic.resolved` has not replaced it.
        """
        if self.fine_tune_epochs == "auto":
            raise ValueError("training.fine_tune_epochs=auto was not replaced by a number")
        return self.fine_tune_epochs

    def with_batch_size(self, images: int) -> "Training":
        """Return the same settings with a number of images in a step."""
        return self.model_copy(update={"batch_size": images})


class Evaluation(Section):
    """How probabilities become predictions, and when a shortcut is suspected."""

    threshold: Probability | Literal["youden", "sensitivity"] = Field(
        description="The positive class is predicted when its probability is at least this (two "
        "classes only). "
        "Two rules choose it on the validation images: `youden` takes the threshold where "
        "sensitivity + specificity is highest; `sensitivity` takes the highest threshold whose "
        "sensitivity is at least `target_sensitivity`."
    )
    target_sensitivity: Probability = Field(
        description="The sensitivity that `threshold=sensitivity` must reach on the validation "
        "images."
    )
    calibration: Literal["none", "temperature"] = Field(
        description="`temperature` scales the probabilities to fit the validation images."
    )
    test_time_augmentation: Literal["none", "flip"] = Field(
        description="`flip` takes the mean of the probabilities of an image and its mirror image, "
        "in evaluation and in every later prediction. A prediction takes twice as long."
    )
    shortcut_threshold: Fraction = Field(
        description="A probe is a classifier that sees only file metadata, or only the border of "
        "the images. A shortcut is suspected when the probe is clearly better than chance, and its "
        "lead over chance is at least this fraction of the model's lead over chance. The tests "
        "on the model use the same fraction: of the lead that is left when the centre of the "
        "images is hidden, or that is lost with the border, or the kind of file, of another class."
    )
    coverage: Fraction = Field(
        description="Each prediction lists the plausible classes: the predicted one, and those "
        "that are probable enough. For at least this share of new images from the same source, on "
        "average and for all classes together, the true class is among them. The validation images "
        "decide how probable is enough."
    )
    unknown: list[Literal["ambiguous", "unusual"]] = Field(
        description="When a prediction is `unknown` instead of a class. `ambiguous`: the predicted "
        "class is not the only plausible one. `unusual`: the image is unlike the training images, "
        "see `unusual_percentile`. `[]`: never."
    )
    unusual_percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        description="An image is unusual when it is less like the training images than this "
        "percentage of the validation images."
    )
    remember_images: bool = Field(
        description="Stores digests of the training and validation images with the model. "
        "Predictions then say whether the model has seen the image, or a near duplicate of it."
    )


ProbeName = Literal["metadata", "border"]
ShortcutName = Literal["metadata", "border", "centre_hidden", "other_border", "other_file"]


class Promotion(Section):
    """What a version must reach on the test images to become champion."""

    metric: Literal["balanced_accuracy", "accuracy", "f1_macro"] = Field(
        description="Its 95% interval must be above chance, and two versions are compared by it."
    )
    minimum_sensitivity: Probability = Field(
        description="Smallest sensitivity to the positive class. Only with two classes."
    )
    minimum_accuracy: Probability = Field(description="Smallest accuracy.")
    minimum_recall: Probability = Field(
        description="Smallest recall of every class: the share of its images that are recognised."
    )
    accept_shortcuts: list[ShortcutName] = Field(
        description="Suspected shortcuts that do not stop a promotion, e.g. `[metadata, border]`. "
        "`metadata` and `border` are probes; the others are tests on the model."
    )


class Serving(Section):
    """Limits of the HTTP server. The limits on images are also stored with every model."""

    maximum_body_bytes: Annotated[int, Field(ge=1, le=2**30)] = Field(
        description="Bytes of a request. Base64 makes images a third larger."
    )
    maximum_images: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="Images in a request."
    )
    maximum_image_bytes: Annotated[int, Field(ge=1, le=2**30)] = Field(
        description="Bytes of an image file."
    )
    maximum_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = Field(
        description="Pixels of an image. Decoding takes up to 28 bytes a pixel."
    )
    maximum_requests_at_once: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="Requests that are worked on at the same time; the others wait."
    )
    queue_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        description="How long a request waits for its turn before status 429, in seconds.",
    )
    read_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        description="How long a client may take to send the headers, and again to send the body, "
        "before status 408, in seconds.",
    )

    dicom: bool = Field(
        description="Whether DICOM files are accepted. They often contain names of patients."
    )

    drift_images: Annotated[int, Field(ge=0, le=300)] = Field(
        description="How many of the last images `GET /drift` compares with the usual ones. Of "
        "each it keeps numbers in memory, not the image. 0: there is no `/drift`."
    )
    batch_images: Annotated[int, Field(ge=1, le=256)] = Field(
        description="Images of waiting requests that are classified together. 1: each request by "
        "itself. More pays with a GPU, or a model that takes longer than decoding."
    )
    reload_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(
        description="How often the server looks whether the alias it serves, e.g. champion, "
        "stands for another version, and serves that one. 0: it keeps its version."
    )
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/]+)$")]] = Field(
        description="Sites whose pages may ask this server, e.g. `[https://example.com]`."
    )
    access_log: bool = Field(
        description="Whether each request prints a line of JSON: time, client, path, status, "
        "duration and sizes; nothing of an image."
    )
    predictions_log: Annotated[str, Field(min_length=1)] | None = Field(
        description="File with a line of JSON for each prediction: the image's SHA-256, the "
        "answer, the version, and what `drift` needs. null: none."
    )

    @property
    def image_limits(self) -> dict[str, int]:
        """The limits that a stored model checks itself."""
        names = {"maximum_images", "maximum_image_bytes", "maximum_pixels", "dicom"}
        return self.model_dump(include=names)


class Tracking(Section):
    """Names in MLflow."""

    experiment: Annotated[str, Field(pattern=r"\S", max_length=500)] = Field(
        description="The MLflow experiment that collects the runs."
    )
    register_models: Literal["each", "best", "none"] = Field(
        description="Which jobs of a sweep register their model: each, only the best, or none."
    )
    registered_model: ModelName = Field(
        description="Name of the registered model: no / : @ # ?, and no dot or space at the start "
        "or end."
    )


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
                f"{len(self.model.filters)} entries of model.filters halves the image"
            )
        return self
