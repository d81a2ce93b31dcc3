"""Writes a dataset of synthetic chest X-ray phantoms, in class folders.

    python -m phantoms FOLDER

Creates FOLDER/{train,test}/{COVID19,NORMAL}.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from phantoms.drawing import FILE_STREAM, phantom, stream

SPLITS = ("train", "test")
CLASSES = ("COVID19", "NORMAL")

# Some files are as irregular as those of real datasets. Only the index chooses them, so that every
# class has the same number of each kind.
MESSY_PERIOD = 40
MESSY_KINDS = {3: "png named jpg", 6: "rgba png", 9: "palette png"}
RGB_JPEG_PERIOD = 10


def _write_picture(folder: Path, key: Sequence[int], index: int, opacities: bool) -> None:
    """Write one phantom; its size, quality and format do not depend on its class."""
    generator = stream(key, FILE_STREAM)
    height, width = (int(length) for length in generator.integers(200, 321, 2))
    quality = int(generator.integers(60, 91))
    messy = MESSY_KINDS.get(index % MESSY_PERIOD)
    if messy:  # lossless: with fewer pixels the file stays small
        height, width = height * 2 // 3, width * 2 // 3
    picture = Image.fromarray(phantom(key, opacities, (height, width)))
    path = folder / f"phantom-{index:03d}.jpg"
    if messy == "png named jpg":
        picture.save(path, format="PNG")
    elif messy == "rgba png":
        picture.convert("RGBA").save(path.with_suffix(".png"))
    elif messy == "palette png":
        picture.quantize(64).save(path.with_suffix(".png"))
    elif index % RGB_JPEG_PERIOD == 1:
        picture.convert("RGB").save(path, quality=quality)
    else:
        picture.save(path, quality=quality)


def write_dataset(folder: Path, train_per_class: int, test_per_class: int, seed: int) -> None:
    """Write both splits of both classes into a folder.

    Each file depends only on seed, split, class and index, so a larger dataset contains the files
    of a smaller one.

    Raises:
        FileExistsError: `folder/train` or `folder/test` is not empty.
    """
    for split in SPLITS:
        target = folder / split
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} is not empty: empty it, or choose another folder")
    numbers = {"train": train_per_class, "test": test_per_class}
    for split_number, (split, number) in enumerate(numbers.items()):
        for class_number, name in enumerate(CLASSES):
            target = folder / split / name
            target.mkdir(parents=True)
            for index in range(number):
                key = (seed, split_number, class_number, index)
                _write_picture(target, key, index, opacities=name == "COVID19")


def _whole_number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with code 2 if the files cannot be written."""
    parser = argparse.ArgumentParser(description="Write a dataset of chest X-ray phantoms.")
    parser.add_argument("folder", type=Path, help="train/ and test/ are created in this folder")
    parser.add_argument(
        "--train", type=_whole_number, default=100, help="images per class, default 100"
    )
    parser.add_argument(
        "--test", type=_whole_number, default=40, help="images per class, default 40"
    )
    parser.add_argument(
        "--seed", type=_whole_number, default=0, help="another seed draws other phantoms, default 0"
    )
    options = parser.parse_args(arguments)
    try:
        write_dataset(options.folder, options.train, options.test, options.seed)
    except OSError as error:
        parser.error(str(error))
