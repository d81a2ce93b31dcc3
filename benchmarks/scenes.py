"""Measures what the limits of data/near_duplicates.py for the images of a scene rest on.

    python benchmarks/scenes.py

Draws scenes of a fixed camera with sensor noise, half of the frames with a small object, and copies
of some frames. Writes the correlations without the background, and the local changes between images
with and without the object, to benchmarks/scenes.md.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from image_classifier.data.images import Pixels, decode
from image_classifier.data.near_duplicates import (
    CLOSE_VIEW,
    COPY_CORRELATION,
    LOCAL_CHANGE,
    local_change,
    without_background,
)
from phantoms.drawing import phantom

FRAMES, COPIED = 60, 6
NOISES = (1, 2, 3, 6)  # standard deviations, in grey levels
SIDES = (128, 512)  # pixels


def encoded(image: Image.Image, **options: int) -> bytes:
    """Return an image as a file: PNG, or JPEG with the given options."""
    content = io.BytesIO()
    image.save(content, "JPEG" if options else "PNG", **options)
    return content.getvalue()


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG quality 80": lambda image: encoded(image, quality=80),
    "JPEG quality 30": lambda image: encoded(image, quality=30),
    "half the size": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "20% brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.2)),
}


def background(side: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a blurred random pattern, with a mean of 128."""
    noise = Image.fromarray(generator.integers(0, 255, (side, side), dtype=np.uint8))
    blurred = np.asarray(noise.filter(ImageFilter.GaussianBlur(side / 64)), np.float64)
    pattern: npt.NDArray[np.float64] = (blurred - blurred.mean()) * 3 + 128
    return pattern


def frame(
    scene: npt.NDArray[np.float64], noise: float, seen: bool, generator: np.random.Generator
) -> Image.Image:
    """Return a frame of a scene; `seen`: with a bright object of 5% of the side."""
    pixels, side = scene.copy(), len(scene)
    if seen:
        y, x = generator.integers(side // 6, side - side // 6, 2)
        half = 3 * side // 128
        pixels[y - half : y + half, x - half : x + half] = 250
    pixels += generator.normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def correlations(side: int, noise: float) -> list[float]:
    """Return the largest correlation of different frames, and the smallest of each copy."""
    generator = np.random.default_rng(0)
    scene = background(side, generator)
    frames = [frame(scene, noise, index % 2 == 0, generator) for index in range(FRAMES)]
    files = [encoded(image) for image in frames]
    files += [change(image) for change in COPIES.values() for image in frames[:COPIED]]
    grey = np.stack([view(file).mean(axis=2).round().astype(np.uint8) for file in files])
    rest = without_background(grey.reshape(len(files), -1)).astype(np.float32)
    table = rest @ rest.T
    others = table[:FRAMES, :FRAMES][np.triu_indices(FRAMES, 1)].max()
    copies = [
        min(table[i, FRAMES + kind * COPIED + i] for i in range(COPIED))
        for kind in range(len(COPIES))
    ]
    return [float(others), *map(float, copies)]


def view(file: bytes) -> Pixels:
    """Return an image for a closer comparison: uint8 array of shape (64, 64, 3)."""
    return decode(file, CLOSE_VIEW)


def local_changes() -> tuple[list[float], list[float]]:
    """Return the local changes of copies of phantoms, and of frames with and without an object."""
    copies, frames = [], []
    for index in range(40):
        image = Image.fromarray(phantom((5, index), index % 2 == 0, (160, 160)))
        original = view(encoded(image))
        copies += [
            local_change(original, view(change(image)))
            for name, change in COPIES.items()
            if name != "20% brighter"
        ]
    for side in SIDES:
        generator = np.random.default_rng(1)
        scene = background(side, generator)
        for noise in NOISES:
            for _ in range(10):
                pair = [encoded(frame(scene, noise, seen, generator)) for seen in (True, False)]
                frames.append(local_change(view(pair[0]), view(pair[1])))
    return copies, frames


def main() -> None:
    """Measure, and write the page."""
    kinds = ["other frames, at most", *(f"{name}, at least" for name in COPIES)]
    lines = [
        "# Images of one scene",
        "",
        f"Written by `python benchmarks/scenes.py`. Correlations, without the background, of "
        f"{FRAMES} frames of a fixed camera, and of copies of {COPIED} of them. Two images count "
        f"as copies when it is at least {COPY_CORRELATION}.",
        "",
        f"| side | noise | {' | '.join(kinds)} |",
        "|---|---" + "|---" * len(kinds) + "|",
    ]
    for side in SIDES:
        for noise in NOISES:
            cells = " | ".join(f"{value:.2f}" for value in correlations(side, noise))
            lines.append(f"| {side} | {noise} | {cells} |")
    copies, frames = local_changes()
    above = sum(value > LOCAL_CHANGE for value in frames)
    lines += [
        "",
        f"Local change (more than {LOCAL_CHANGE:g} means: different in one place). Copies of "
        f"phantoms, but the brighter ones: at most {max(copies):.1f}. Frames with and without an "
        f"object of 5% of the side: at least {min(frames):.1f}, and {above} of {len(frames)} are "
        f"above the limit.",
        "",
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
