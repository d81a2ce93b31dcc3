"""Pretrained models without their top: from keras.applications, or from a .keras file."""

import difflib
import hashlib
import os
import re
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import keras
from keras import layers, ops

from image_classifier.config.schema import Image, PretrainedModel
from image_classifier.errors import InputError
from image_classifier.project import digests
from image_classifier.project.files import whole_file
from image_classifier.project.paths import located

MIRROR = "IMAGE_CLASSIFIER_WEIGHTS_URL"  # an address that has the files of keras.applications
TIMEOUT = 30  # seconds without an answer, after which a download fails
FILE = ".keras"

# The licenses of the weights that keras.applications downloads, by module, as the authors of the
# weights give them.
LICENSES = {
    "convnext": "MIT",
    "densenet": "BSD-3-Clause",
    "efficientnet": "Apache-2.0",
    "efficientnet_v2": "Apache-2.0",
    "inception_resnet_v2": "Apache-2.0",
    "inception_v3": "Apache-2.0",
    "mobilenet": "Apache-2.0",
    "mobilenet_v2": "Apache-2.0",
    "mobilenet_v3": "Apache-2.0",
    "nasnet": "Apache-2.0",
    "resnet": "MIT",
    "resnet_v2": "Apache-2.0",
    "vgg16": "CC-BY-4.0",
    "vgg19": "CC-BY-4.0",
    "xception": "MIT",
}

# The sizes, in pixels, of the images that the weights `imagenet` were trained on, by name.
OWN_SIZES = {
    "EfficientNetB1|EfficientNetV2B1": 240,
    "EfficientNetB2|EfficientNetV2B2": 260,
    "EfficientNetB3|EfficientNetV2B3": 300,
    "EfficientNetB4": 380,
    "EfficientNetV2S": 384,
    "EfficientNetB5": 456,
    "EfficientNetV2[ML]": 480,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "Inception.*|Xception": 299,
    "NASNetLarge": 331,
    ".*": 224,
}


class _Wanted(Exception):
    """Carries the file of weights that keras.applications asks for."""

    def __init__(self, name: str, address: str, digest: str) -> None:
        self.name, self.address, self.digest = name, address, digest


def names() -> list[str]:
    """Return the names of the models in keras.applications."""
    return sorted(name for name in dir(keras.applications) if name[0].isupper())


def weights_file(model: PretrainedModel) -> Path | None:
    """Return the file of a backbone's weights, downloaded if needed; None for random weights.

    Raises:
        InputError: the backbone does not exist, or its weights cannot be found or downloaded.
    """
    if model.is_file:
        return located("model.backbone", model.backbone, "file")
    if model.weights is None:
        return None
    if model.weights == "imagenet":
        return _imagenet(model.backbone)
    return located("model.weights", model.weights, "file")


def weights_digest(model: PretrainedModel) -> str:
    """Return the SHA-256 of the file of the weights; `random` without one."""
    file = weights_file(model)
    if file is None:
        return "random"
    facts = file.stat()
    return _digest(file, facts.st_mtime_ns, facts.st_size)


@cache
def _digest(file: Path, modified: int, size: int) -> str:
    """Return the SHA-256 of a file; its time and size tell whether it changed since."""
    return digests.of_file(file)


def license_of(model: PretrainedModel) -> str:
    """Return the license of a backbone's weights; empty if it is not known."""
    if model.license or model.weights != "imagenet" or model.is_file:
        return model.license or ""
    # the classes of a family share a module of keras.applications
    return LICENSES.get(_module(model.backbone).__name__.rsplit(".", 1)[-1], "")


def remark_on_size(model: PretrainedModel, image: Image) -> str:
    """Return a sentence if images have another size than those that a backbone was trained on."""
    pattern = next((name for name in OWN_SIZES if re.fullmatch(name, model.backbone)), None)
    if pattern is None or model.weights != "imagenet":
        return ""
    own = OWN_SIZES[pattern]
    if (image.height, image.width) == (own, own):
        return ""
    return (
        f"{model.backbone} was trained on images of {own} x {own} pixels; these have "
        f"{image.height} x {image.width}. For its own size: image.height={own} image.width={own}"
    )


def features_of(images: keras.KerasTensor, model: PretrainedModel) -> keras.KerasTensor:
    """Add a backbone's layers, and the mean over the places of its last feature maps.

    Its batch normalisation stays in inference mode, also while the backbone is trained: the means
    of a small batch of new images would destroy what it has learnt.

    Args:
        images: uint8 of shape (batch, height, width, channels), values 0 to 255.
        model: The settings.

    Returns:
        float of shape (batch, features).

    Raises:
        InputError: the backbone does not exist, or does not take images of this size.
    """
    x = images
    if images.shape[-1] == 1:
        x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    try:
        add = _from_file if model.is_file else _from_applications
        x = add(x, model)
    except ValueError as error:
        size = " x ".join(map(str, images.shape[1:]))
        raise InputError(
            f"model.backbone={model.backbone} does not take images of {size}, or not these weights "
            f"({str(error).splitlines()[0]}). Set image.height and image.width to its own size."
        ) from None
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D(name="features")(x)
    return x


def freeze_normalisation(model: keras.Model) -> None:
    """Keep the batch normalisation of a model in inference mode."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def _from_file(images: keras.KerasTensor, model: PretrainedModel) -> keras.KerasTensor:
    stored = keras.models.load_model(weights_file(model), compile=False, safe_mode=True)
    wanted = stored.inputs[0]
    if wanted.shape[1:] != images.shape[1:]:
        size = " x ".join(map(str, wanted.shape[1:]))
        raise ValueError(f"it was built for {size}")
    if wanted.dtype != images.dtype:
        images = ops.cast(images, wanted.dtype)
    # its layers one by one, not as one layer: the heat maps need the last feature maps
    flat = keras.models.clone_model(stored, input_tensors=images)
    flat.set_weights(stored.get_weights())
    return flat.outputs[0]


def _from_applications(images: keras.KerasTensor, model: PretrainedModel) -> keras.KerasTensor:
    file = weights_file(model)
    module = _module(model.backbone)
    # of some families it does nothing, because they have it as layers
    x = module.preprocess_input(ops.cast(images, "float32"))
    build = getattr(keras.applications, model.backbone)
    backbone = build(include_top=False, weights=None, input_tensor=x)
    if file:
        backbone.load_weights(file)
    return backbone.outputs[0]


def _module(name: str) -> ModuleType:
    """Return the module of keras.applications that has a model.

    Raises:
        InputError: there is none of this name.
    """
    if name in names():
        # not every public module has its classes: keras.applications.mobilenet_v3 does not
        family = getattr(keras.applications, name).__module__.rsplit(".", 1)[-1]
        return cast(ModuleType, getattr(keras.applications, family))
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0) or names()[:1]
    raise InputError(
        f"model.backbone={name} is not a model of keras.applications. The nearest name is "
        f"{near[0]}. Or give the path of a {FILE} file."
    )


def _imagenet(name: str) -> Path:
    """Return the file of the weights that Keras's authors trained on ImageNet.

    Raises:
        InputError: it is not on this machine, and cannot be downloaded, or has another content.
    """
    _module(name)
    wanted = _file_that_keras_wants(name)
    folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    path = folder / wanted.name
    if path.is_file():
        return path  # was checked when it was downloaded, or a person put it there
    mirror = os.environ.get(MIRROR)
    address = f"{mirror.rstrip('/')}/{wanted.name}" if mirror else wanted.address
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {address}")
    try:
        with whole_file(path) as partial:
            _download(address, partial)
            _check(partial, address, wanted)
    except (OSError, urllib.error.URLError) as error:
        raise InputError(
            f"The weights of {name} cannot be downloaded from {address} ({error}). Put the file "
            f"{wanted.name} into {folder}, or set {MIRROR} to an address that has it, or set "
            f"model.weights to a file."
        ) from None
    return path


@cache  # builds the model, which takes seconds
def _file_that_keras_wants(name: str) -> _Wanted:
    def get_file(fname: str, origin: str, file_hash: str = "", **options: Any) -> None:
        raise _Wanted(Path(fname).name, origin, file_hash)

    from keras.src.utils import file_utils  # no public function tells the file's name

    original = file_utils.get_file
    file_utils.get_file = get_file
    try:
        getattr(keras.applications, name)(include_top=False, weights="imagenet")
    except _Wanted as wanted:
        return wanted
    finally:
        file_utils.get_file = original
    raise InputError(f"keras.applications has no weights for {name}: set model.weights to a file.")


def _download(address: str, path: Path) -> None:
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
        while block := answer.read(2**20):
            file.write(block)


def _check(path: Path, address: str, wanted: _Wanted) -> None:
    kind = {32: "md5", 64: "sha256"}.get(len(wanted.digest or ""))
    if kind:
        with path.open("rb") as file:
            if hashlib.file_digest(file, kind).hexdigest() != wanted.digest:
                raise InputError(
                    f"{address} has another content than Keras expects: it is damaged, or not "
                    f"the file {wanted.name}."
                )
