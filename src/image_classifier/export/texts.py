"""What the files of an exported folder say: model.json, README.md and parity.md."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

import joblib

from image_classifier.classifier import Metadata
from image_classifier.data.images import FORMATS
from image_classifier.export.convert import FILES, Format
from image_classifier.export.parity import TIMED, Answers, Measured
from image_classifier.project.text import counted

LISTED = 5  # files that run.py does not read
RUNTIMES = {"onnx": "onnxruntime", "litert": "ai-edge-litert", "saved_model": "tensorflow"}
NAMES = {"onnx": "ONNX", "litert": "LiteRT", "saved_model": "SavedModel"}


@dataclass(frozen=True)
class Export:
    """What an exported folder contains.

    Attributes:
        uri: The registered version.
        metadata: Of its classifier.
        kind: The format.
        representatives: How many training images gave the ranges of INT8; 0 without INT8.
        trained_on: A sentence about the training images.
        note: The remark that is shown with everything about the dataset, or empty.
    """

    uri: str
    metadata: Metadata
    kind: Format
    representatives: int
    trained_on: str
    note: str

    @property
    def form(self) -> str:
        """The name in MLflow, such as `onnx` or `litert_int8`."""
        return self.kind + "_int8" * bool(self.representatives)

    @property
    def kind_name(self) -> str:
        """The name of the format for people, such as `LiteRT INT8`."""
        return NAMES[self.kind] + " INT8" * bool(self.representatives)

    @property
    def title(self) -> str:
        """The version and the format, such as `xray-classifier/1 as LiteRT INT8`."""
        return f"{self.uri.removeprefix('models:/')} as {self.kind_name}"


def model_facts(export: Export) -> dict[str, Any]:
    """Return the content of model.json: what a program needs to decode, run and decide."""
    metadata = export.metadata
    return {
        "model": export.uri,
        "format": export.kind,
        "file": FILES[export.kind],
        "classes": metadata.classes,
        "threshold": metadata.threshold if len(metadata.classes) == 2 else None,
        "decoding": {
            "formats": FORMATS,
            "height": metadata.height,
            "width": metadata.width,
            "channels": metadata.channels,
            "mode": "RGB" if metadata.channels == 3 else "L",
            "fit": metadata.fit,
            "scale": metadata.scale,
        },
    }


def readme(export: Export, originals: int) -> str:
    """Return README.md: how the model is run, how images are decoded, and its limits.

    Args:
        export: What the folder contains.
        originals: How many golden images are the original files.
    """
    metadata = export.metadata
    shape = f"{metadata.height}, {metadata.width}, {metadata.channels}"
    names = ", ".join(f"`{name}`" for name in metadata.classes)
    answer = (
        f"The answer is `{metadata.classes[1]}` when its probability is at least "
        f"{metadata.threshold:g}, else `{metadata.classes[0]}`."
        if len(metadata.classes) == 2
        else "The answer is the class with the highest probability."
    )
    fit = {
        "squash": f"scaled to {metadata.width} x {metadata.height}, whatever its shape",
        "pad": f"scaled to fit into {metadata.width} x {metadata.height}, with black at two sides",
        "crop": f"scaled to fill {metadata.width} x {metadata.height}, and cut off at two sides",
    }[metadata.fit]
    depth = (
        "Images with more than 8 bits per channel are refused."
        if metadata.scale is None
        else f"Of images with more than 8 bits, {metadata.scale[0]:g} becomes 0 and "
        f"{metadata.scale[1]:g} becomes 255."
    )
    packages = " ".join(
        f"{name}=={importlib.metadata.version(name)}"
        for name in ("numpy", "pillow", RUNTIMES[export.kind])
    )
    unknown = (
        f"- `image-classifier predict` says `unknown` for some images "
        f"({' and '.join(metadata.unknown)}); this export never does.\n"
        if metadata.unknown
        else ""
    )
    note = f"> **{export.note}**\n\n" if export.note else ""
    return f"""{note}# {export.title}

`{FILES[export.kind]}` takes uint8 pixels of shape (images, {shape}), 0 to 255, and returns the
probabilities of {names}: float32 of shape (images, {len(metadata.classes)}).
{answer}

```bash
pip install {packages}
python run.py --check        # the images in golden/ get the expected probabilities
python run.py chest.jpg      # CSV
```

`parity.md` says how the answers differ from those of the original model; `model_card.md`, of a
model that was evaluated, how good that is. `model.json` has classes, threshold and the rules of
decoding.

## From a file to pixels

As `run.py` does it, with Pillow:

1. The content decides the format, not the name. Only the first frame of an animation is used.
2. A JPEG is read at the smallest scale of libjpeg (1/2, 1/4, 1/8) that is not smaller than the
   model's input (`Image.draft`).
3. EXIF rotation is applied. Transparent pixels become black.
4. Colours become {"RGB" if metadata.channels == 3 else "grey"}. {depth}
5. The image is {fit} (bilinear, antialiased).

Another decoder gives other pixels, and so other probabilities: compare with `golden/`.

## What it was trained on

{export.trained_on}

## Limits

- For experiments, on images from the same source as the training images. Not a medical device: do
  not use it for a diagnosis or for any decision about a person.
- It does not tell images that are unlike the training images, and gives no plausible classes.
{unknown}- `run.py` does not read DICOM. It may read a JPEG that is cut off, with grey in the
  missing part.
- {originals} of the images in `golden/` are the original files of test images, with their metadata
  (EXIF). Share this folder only as you may share these images.
"""


def parity(export: Export, answers: Answers, measured: Measured) -> str:
    """Return parity.md."""
    model, files, limits = measured.model, measured.files, measured.limits
    verdict = (
        "**Failed.** " + " ".join(measured.problems) + " Do not use this model."
        if measured.problems
        else "Passed."
    )
    rows: list[tuple[object, ...]] = [
        ("largest difference of a probability", "", f"{model.largest:.2g}", limits.difference),
        ("changed answers", "", f"{model.changed} of {model.images}", model.allowed(limits)),
    ]
    if files:
        allowed = files.allowed(limits)
        rows += [
            ("from files: largest difference", "", f"{files.largest:.2g}", limits.difference),
            ("from files: changed answers", "", f"{files.changed} of {files.images}", allowed),
        ]
    rows += [
        ("megabytes", f"{measured.before.size / 1e6:.3f}", f"{measured.after.size / 1e6:.3f}", ""),
        (
            "milliseconds an image",
            f"{measured.before.milliseconds:.2f}",
            f"{measured.after.milliseconds:.2f}",
            "",
        ),
    ]
    table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
    ranges = (
        f"The layers compute with integers of 8 bits, in the ranges that {export.representatives} "
        f"training images of all classes need. Input and output are not quantised for the caller: "
        f"uint8 pixels, float32 probabilities.\n\n"
        if export.representatives
        else ""
    )
    return f"""# Parity: {export.title}

{verdict}

| {model.images} test images | Keras | {export.kind_name} | limit |
|---|---|---|---|
{table}

The first rows compare the models on the same pixels; *from files* means that `run.py` decodes the
files, and that the original program decodes them for Keras. Megabytes are those of the weights, and
of the exported file. Milliseconds are for one image at a time without decoding, the median of
{min(TIMED, model.images)}, on {machine()}.

{ranges}{decoding(answers)}
"""


def decoding(answers: Answers) -> str:
    """Return how `run.py` reads the files of the test images, in sentences."""
    read = int(answers.read.sum())
    sentences = [
        f"`run.py` reads {read} of {counted(len(answers.read), 'file')}, "
        f"{read - answers.other_pixels} with exactly the pixels that the original program reads."
    ]
    if answers.refusals:
        listed = list(answers.refusals.items())[:LISTED]
        reasons = "; ".join(f"`{path}`: {reason}" for path, reason in listed)
        sentences.append(f"It does not read {len(answers.refusals)}, such as {reasons}.")
    if answers.missing:
        sentences.append(f"{answers.missing} are not in build/raw as they were split.")
    return " ".join(sentences)


def machine() -> str:
    """Return what the milliseconds were measured on."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras")
    )
    return f"{counted(joblib.cpu_count(), 'core')} ({versions})"


def summary(measured: Measured) -> str:
    """Return what was measured, for the screen."""
    before, after = measured.before, measured.after
    lines = [("the same pixels", measured.model)]
    if measured.files:
        lines.append(("files that run.py decodes", measured.files))
    return "\n".join(
        [
            f"{found.images} test images, {what}: a probability differs by at most "
            f"{found.largest:.2g}, {counted(found.changed, 'answer')} changed"
            for what, found in lines
        ]
        + [
            f"{after.size / 1e6:.3f} MB (Keras {before.size / 1e6:.3f}), "
            f"{after.milliseconds:.2f} ms an image (Keras {before.milliseconds:.2f})"
        ]
    )
