"""Classifies image files with the exported model in this folder.

    python run.py chest.jpg other.png
    python run.py --check

Prints CSV. `--check` classifies the images in golden/ instead, and compares the probabilities with
the expected ones. The exit code is 1 if they differ, or if a file cannot be read.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

Runtime = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
FOLDER = Path(__file__).parent
TIFF_BITS, TIFF_WHITE = 258, 262  # tags: bits of each channel; 0 where white is zero


def decode(file: Path | IO[bytes], rules: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Return an image file as the model's input.

    Args:
        file: The encoded image.
        rules: `decoding` in model.json.

    Returns:
        uint8 array of shape (height, width, channels), values 0 to 255.

    Raises:
        OSError, ValueError: the file cannot be read, or not in the way of the training images.
    """
    size, mode = (rules["width"], rules["height"]), rules["mode"]
    image = Image.open(file, formats=rules["formats"])
    deep = has_deep_channels(image)
    image.draft(mode, (max(size), max(size)))  # reads a large JPEG at a reduced scale
    upright = ImageOps.exif_transpose(image)
    if deep:
        upright = Image.fromarray(to_8_bits(upright, rules["scale"]))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright)
    upright = upright.convert(mode)
    if rules["fit"] == "pad":
        upright = ImageOps.pad(upright, size, Image.Resampling.BILINEAR)
    elif rules["fit"] == "crop":
        upright = ImageOps.fit(upright, size, Image.Resampling.BILINEAR)
    else:
        upright = upright.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(upright, np.uint8).reshape(rules["height"], rules["width"], -1)


def has_deep_channels(image: ImageFile.ImageFile) -> bool:
    """Return whether an image has more than 8 bits per channel.

    Raises:
        ValueError: in a form that Pillow does not read as it is.
    """
    tags = getattr(image, "tag_v2", {})  # of TIFF
    if image.mode.startswith(("I", "F")):
        if tags.get(TIFF_WHITE) == 0:
            raise ValueError("its white is zero, with more than 8 bits: convert it")
        return True
    # the bits of a PNG are only in the name of the decoder's raw mode
    if max(tags.get(TIFF_BITS, (8,))) > 8 or (image.format == "PNG" and ";16" in str(image.tile)):
        raise ValueError("colours with more than 8 bits: convert it to 8 bits")
    return False


def to_8_bits(image: Image.Image, scale: Sequence[float] | None) -> npt.NDArray[np.uint8]:
    """Return a deep image as 0 to 255; values outside the scale of the training images are cut."""
    if scale is None:
        raise ValueError("more than 8 bits per channel, and no training image had: convert it")
    low, high = scale
    values = (np.asarray(image, np.float64) - low) * (255 / (high - low))
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def onnx(path: Path) -> Runtime:
    """Return the function that computes probabilities with ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: np.asarray(session.run(None, {name: pixels})[0])


def litert(path: Path) -> Runtime:
    """Return the function that computes probabilities with LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    infer = Interpreter(str(path)).get_signature_runner()
    return lambda pixels: np.asarray(next(iter(infer(image=pixels).values())))


def saved_model(path: Path) -> Runtime:
    """Return the function that computes probabilities with TensorFlow."""
    import tensorflow

    model = tensorflow.saved_model.load(str(path))
    return lambda pixels: np.asarray(model.serve(tensorflow.constant(pixels)))


RUNTIMES = {"onnx": onnx, "litert": litert, "saved_model": saved_model}


def load(folder: Path) -> tuple[dict[str, Any], Runtime]:
    """Return model.json of a folder, and the function that computes probabilities.

    The function takes a uint8 array of shape (images, height, width, channels), and returns a
    float32 array of shape (images, classes).
    """
    facts = json.loads((folder / "model.json").read_text())
    return facts, RUNTIMES[facts["format"]](folder / facts["file"])


def decide(
    probabilities: npt.NDArray[np.float32], threshold: float | None
) -> npt.NDArray[np.int64]:
    """Return the index of the class of each row: of two classes, the threshold decides."""
    if threshold is not None:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return np.asarray(np.argmax(probabilities, axis=1))


def classify(files: Sequence[Path]) -> int:
    """Print the class and the probabilities of files; return the exit code."""
    facts, runtime = load(FOLDER)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", *(f"p_{name}" for name in facts["classes"])])
    failed = 0
    for file in files:
        try:
            pixels = decode(file, facts["decoding"])
        except Exception as error:  # Pillow raises a dozen types
            failed = 1
            print(f"skipped {file}: {error}", file=sys.stderr)
            continue
        probabilities = runtime(pixels[None])
        (chosen,) = decide(probabilities, facts["threshold"])
        writer.writerow([file, facts["classes"][chosen], *map(float, probabilities[0])])
    return failed


def check() -> int:
    """Compare the golden images with the expected probabilities; return the exit code."""
    facts, runtime = load(FOLDER)
    expected = json.loads((FOLDER / "golden" / "expected.json").read_text())
    failed = 0
    for name, wanted in expected["probabilities"].items():
        found = runtime(decode(FOLDER / "golden" / name, facts["decoding"])[None])[0]
        difference = float(np.abs(found - np.array(wanted)).max())
        good = difference <= expected["limit"]  # not so for NaN
        failed |= not good
        print(f"{'ok' if good else 'DIFFERS'} {name}: by {difference:.2g}")
    print(f"limit {expected['limit']:g}: {'some differ' if failed else 'all are as expected'}")
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="classify the images in golden/")
    arguments = parser.parse_args()
    if bool(arguments.images) == arguments.check:
        parser.error("name image files, or --check")
    sys.exit(check() if arguments.check else classify(arguments.images))
