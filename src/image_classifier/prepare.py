"""prepare: decodes every image of the manifest once, to one array on disk.

Takes build/raw and the manifest. Gives build/prepare/images.npy, row for row with the manifest,
and a grid of pictures to look at. Every run, sweep and experiment then reads the array.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_classifier import paths, plots
from image_classifier.command_line import run_stage
from image_classifier.data.images import Pixels, UnreadableImage, decode
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.errors import InputError
from image_classifier.files import naming, read_bytes, whole_file
from image_classifier.records import write_record
from image_classifier.schema import Config

SETTINGS = ["image"]


def prepare(config: Config) -> None:
    """Write the array of decoded images.

    Raises:
        InputError: an image changed since split.
        OSError: an image cannot be read, or the array not be written.
    """
    rows = read_manifest()
    height, width, channels = config.image.shape
    size = height * width * channels
    with whole_file(paths.IMAGES) as partial, whole_file(paths.PICTURE_GRID) as grid:
        # not through a mapping: on a full disk that ends in a signal, not in an error
        with naming(paths.IMAGES), partial.open("wb") as file:
            shape = (len(rows), height, width, channels)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            start = file.tell()

            def fill(index: int) -> None:
                pixels = decode_row(rows[index], height, width, channels)
                write_at(file.fileno(), pixels.tobytes(), start + index * size)

            with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
                list(tqdm(pool.map(fill, range(len(rows))), "Decoding", len(rows), disable=None))
        chosen = picture_grid_rows(rows)
        titles = [f"{rows[i].label}\n{Path(rows[i].path).name}" for i in chosen]
        plots.picture_grid(np.load(partial, mmap_mode="r")[chosen], titles, grid)
        write_record(paths.PREPARED, config, SETTINGS, manifest_digest=manifest_digest())
    print(f"{len(rows)} images of {height} x {width} x {channels} in {paths.IMAGES}")


def decode_row(row: ImageRow, height: int, width: int, channels: int) -> Pixels:
    """Return the pixels of the manifest's image: uint8, shape (height, width, channels).

    Raises:
        InputError: its file is not what split saw.
    """
    mend = f"If that is meant, run `dvc repro -f -s split`; if not, `dvc checkout {paths.RAW}`."
    try:
        content = read_bytes(paths.RAW / row.path)
    except FileNotFoundError:
        raise InputError(f"{paths.RAW / row.path} is gone since split. {mend}") from None
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise InputError(f"{paths.RAW / row.path} changed since split. {mend}")
    try:
        return decode(content, height, width, channels)
    except UnreadableImage as error:
        raise InputError(
            f"{paths.RAW / row.path} cannot be decoded any more ({error}). {mend}"
        ) from error


def write_at(file: int, content: bytes, position: int) -> None:
    """Write all bytes at a position of an open file; threads may do so side by side."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, position)  # may write less, on a disk that fills up
        rest, position = rest[written:], position + written


def picture_grid_rows(rows: list[ImageRow], pictures: int = 16) -> list[int]:
    """Return the row numbers of the first training images of each class, as many of each."""
    labels = sorted({row.label for row in rows})
    each = max(1, pictures // len(labels))
    return [
        index
        for label in labels
        for index in [
            i for i, row in enumerate(rows) if row.label == label and row.split == "train"
        ][:each]
    ][:pictures]


if __name__ == "__main__":
    run_stage(prepare)
