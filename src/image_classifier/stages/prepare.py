"""prepare: decodes every image of the manifest once, into one array on disk.

Reads build/raw and the manifest. Writes build/prepare/images.npy, with one image for each row of
the manifest, and a grid of training images to look at. Every training then reads the array.

The training images with more than 8 bits per channel decide which values are black and white.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config
from image_classifier.data.depth import FEW_LEVELS, Scale, find_scale, has_few_levels, is_deep
from image_classifier.data.image_grid import grid_rows, plot_image_grid
from image_classifier.data.images import Pixels, Rendering, decode, values_of
from image_classifier.data.manifest import ImageRow, manifest_digest, read_manifest
from image_classifier.data.unreadable import UnreadableImage
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
    rendering = Rendering(**config.image.model_dump(), scale=scale_of_training(rows))
    size = math.prod(config.image.shape)
    few_levels: list[str] = []
    with whole_file(paths.IMAGES) as partial, whole_file(paths.IMAGE_GRID) as grid:
        # not through a memory map: on a full disk that ends with a signal, not with an error
        with with_filename(paths.IMAGES), partial.open("wb") as file:
            shape = (len(rows), *config.image.shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            start = file.tell()

            def fill(index: int) -> None:
                pixels = decode_row(rows[index], rendering)
                if has_few_levels(pixels):
                    few_levels.append(rows[index].path)
                write_at(file.fileno(), pixels.tobytes(), start + index * size)

            with ThreadPoolExecutor() as pool:  # Pillow releases Python's lock while it decodes
                list(tqdm(pool.map(fill, range(len(rows))), "Decoding", len(rows), disable=None))
        chosen = grid_rows(rows)
        images = np.load(partial, mmap_mode="r")[chosen]
        plot_image_grid(images, [rows[index] for index in chosen], grid)
        remarks = remarks_on_levels(rows, rendering.scale, sorted(few_levels))
        write_record(
            paths.PREPARED,
            selected(config, PARAMS),
            manifest_digest=manifest_digest(),
            scale=rendering.scale,
            remarks=remarks,
        )
    shape_text = " x ".join(map(str, config.image.shape))
    print("\n".join([f"{len(rows)} images of {shape_text} in {paths.IMAGES}", *remarks]))


def scale_of_training(rows: Sequence[ImageRow]) -> tuple[float, float] | None:
    """Return the values that become 0 and 255; None if no training image has more than 8 bits.

    Raises:
        InputError: other images have more than 8 bits, but no training image does.
    """
    deep = [row for row in rows if is_deep(row.mode)]
    training = [row.path for row in deep if row.split == "train"]
    if deep and not training:
        raise InputError(
            f"{len(deep)} images of validation and test have more than 8 bits per channel, e.g. "
            f"{deep[0].path}, but no training image has: convert them to 8 bits, or leave them out "
            f"with dataset.exclude."
        )
    if not training:
        return None
    bar = tqdm(training, "Finding the scale", disable=None)
    return find_scale(bar, len(training), lambda path: values_of(paths.RAW / path))


def remarks_on_levels(
    rows: Sequence[ImageRow], scale: Scale, few_levels: Sequence[str]
) -> list[str]:
    """Return remarks on the scale of images with more than 8 bits, and on images with few values.

    Args:
        rows: The manifest.
        scale: From `scale_of_training`.
        few_levels: Paths of the images with few different values.
    """
    remarks = []
    if isinstance(scale, tuple):
        deep = sum(is_deep(row.mode) for row in rows)
        remarks.append(
            f"{deep} of {len(rows)} images have more than 8 bits per channel. In all of them the "
            f"value {scale[0]:g} becomes 0 and {scale[1]:g} becomes 255: nearly all values of the "
            f"training images lie between."
        )
    if few_levels:
        remarks.append(
            f"{len(few_levels)} of {len(rows)} prepared images have fewer than {FEW_LEVELS} "
            f"different values, e.g. {few_levels[0]}. Look at {paths.IMAGE_GRID}: they may be "
            f"blank, masks, or read with a wrong scale."
        )
    return remarks


def decode_row(row: ImageRow, rendering: Rendering) -> Pixels:
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
        return decode(content, rendering, complete=True)  # split has read the same content
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
