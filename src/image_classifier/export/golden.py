"""The golden images: test images with the probabilities that every copy of the model must give."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_classifier.classifier import Probabilities
from image_classifier.data.dataset import PreparedDataset
from image_classifier.export.parity import read_file, spread

IMAGES = 20


def write(
    folder: Path,
    dataset: PreparedDataset,
    expected: Probabilities,
    rules: Mapping[str, Any],
    limit: float,
) -> int:
    """Write test images with their probabilities; return how many are their original files.

    The others are PNG files of the pixels: of images that `run.py` reads otherwise or not at all.

    Args:
        folder: A new folder.
        dataset: Its test images, evenly spread over the classes and over the probabilities of
            their class, are written.
        expected: The classifier's probabilities for all test images.
        rules: `decoding` in model.json.
        limit: See `Limits.difference`.
    """
    folder.mkdir()
    rows = dataset.indices("test")
    labels = dataset.labels[rows]
    order = np.lexsort((expected[np.arange(len(rows)), labels], labels))
    probabilities, originals = {}, 0
    for number, index in enumerate(spread(order, IMAGES), start=1):
        row, pixels = dataset.rows[rows[index]], dataset.images[rows[index]]
        file = read_file(row, rules)
        if file and file.pixels is not None and np.array_equal(file.pixels, pixels):
            name = f"{number:02}{Path(row.path).suffix.lower()}"
            (folder / name).write_bytes(file.content)
            originals += 1
        else:
            name = f"{number:02}.png"
            Image.fromarray(np.squeeze(pixels)).save(folder / name)
        probabilities[name] = [float(value) for value in expected[index]]
    content = {"limit": limit, "probabilities": probabilities}
    (folder / "expected.json").write_text(json.dumps(content, indent=2) + "\n")
    return originals
