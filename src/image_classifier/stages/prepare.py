"""prepare: decodes every image of the manifest once, into one array on disk.

Reads build/raw and the manifest. Writes build/prepare/images.npy, with one image for each row of
the manifest, and a grid of training images to look at. Every training then reads the array.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config
from image_classifier.data.image_grid import grid_rows, plot_image_grid
from image_classifier.data.images import Pixels, UnreadableImage, decode
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import read_bytes, whole_file, with_filename
from image_classifier.project.records import write_record

PARAMS = ["image"]


def prepare(config: Config) -> None:
    """Write the array of decoded images.

    Raises:
        InputError: an image has changed since split.
        OSError: an image cannot be read, or the array cannot be written.
    """
    rows = read_manifest()
    height, width, channels = config.image.shape
    size = height * width * channels
    with whole_file(paths.IMAGES) as partial, whole_file(paths.IMAGE_GRID) as grid:
        # not through a memory map: on a full disk that ends with a signal, not with an error
        with with_filename(paths.IMAGES), partial.open("wb") as file:
            shape = (len(rows), height, width, channels)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            start = file.tell()

            def fill(index: int) -> None:
                pixels = decode_row(rows[index], height, width, channels)
                write_at(file.fileno(), pixels.tobytes(), start + index * size)

            with ThreadPoolExecutor() as pool:  # Pillow releases Python's lock while it decodes
                list(tqdm(pool.map(fill, range(len(rows))), "Decoding", len(rows), disable=None))
        chosen = grid_rows(rows)
        images = np.load(partial, mmap_mode="r")[chosen]
        plot_image_grid(images, [rows[index] for index in chosen], grid)
        write_record(paths.PREPARED, selected(config, PARAMS), manifest_digest=manifest_digest())
    print(f"{len(rows)} images of {height} x {width} x {channels} in {paths.IMAGES}")


def decode_row(row: ImageRow, height: int, width: int, channels: int) -> Pixels:
    """Return the pixels of an image: uint8 array of shape (height, width, channels).

    Raises:
        InputError: its file has changed since split.
    """
    advice = (
        f"To use the new files, run `dvc repro -f -s split`; to restore the old ones, "
        f"`dvc checkout {paths.RAW}`."
    )
    try:
        content = read_bytes(paths.RAW / row.path)
    except FileNotFoundError:
        raise InputError(f"{paths.RAW / row.path} was deleted after split. {advice}") from None
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise InputError(f"{paths.RAW / row.path} changed after split. {advice}")
    try:
        return decode(content, height, width, channels)
    except UnreadableImage as error:
        raise InputError(
            f"{paths.RAW / row.path} can no longer be decoded ({error}). {advice}"
        ) from error


def write_at(file: int, content: bytes, position: int) -> None:
    """Write all bytes at a position of an open file; several threads may do this at once."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, position)  # may write less when the disk fills up
        rest, position = rest[written:], position + written
