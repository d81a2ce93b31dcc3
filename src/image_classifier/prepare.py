"""prepare: decodes every image of the manifest once, to one array on disk.

Takes build/raw and the manifest. Gives build/prepare/images.npy, row for row with the manifest,
and a grid of pictures to look at. Every run, sweep and experiment then reads the array.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_classifier import paths, plots
from image_classifier.command_line import run_stage
from image_classifier.config import Config
from image_classifier.dataset import ImageRow, manifest_digest, read_manifest, write_record
from image_classifier.errors import InputError
from image_classifier.images import UnreadableImage, decode

SETTINGS = ["image"]


def prepare(config: Config) -> None:
    """Write the array of decoded images.

    Raises:
        InputError: an image changed since split.
    """
    rows = read_manifest()
    height, width, channels = config.image.shape
    paths.IMAGES.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), height, width, channels)
    np.lib.format.open_memmap(paths.IMAGES, mode="w+", dtype=np.uint8, shape=shape)

    def fill(index: int) -> None:
        try:
            pixels = decode(paths.RAW / rows[index].path, height, width, channels)
            # mapped anew for each: what stays mapped counts as this process's memory
            np.load(paths.IMAGES, mmap_mode="r+")[index] = pixels
        except UnreadableImage as error:
            raise InputError(
                f"{rows[index].path} cannot be read any more ({error}): "
                f"run `dvc repro -f -s split`."
            ) from error

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        list(tqdm(pool.map(fill, range(len(rows))), "Decoding", len(rows), disable=None))
    chosen = picture_grid_rows(rows)
    titles = [f"{rows[i].label}\n{Path(rows[i].path).name}" for i in chosen]
    plots.picture_grid(np.load(paths.IMAGES, mmap_mode="r")[chosen], titles, paths.PICTURE_GRID)
    write_record(paths.PREPARED, config, SETTINGS, manifest_digest=manifest_digest())
    print(f"{len(rows)} images of {height} x {width} x {channels} in {paths.IMAGES}")


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
