"""Writes a dataset of synthetic chest X-ray phantoms, in class folders.

    python -m phantoms FOLDER

Makes FOLDER/{train,test}/{COVID19,NORMAL}.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from phantoms.drawing import FILE_STREAM, phantom, stream

SPLITS = ("train", "test")
CLASSES = ("COVID19", "NORMAL")

# Files as messy as real ones, chosen by index alone so that every class holds as many of each.
MESSY_PERIOD = 40
MESSY_KINDS = {3: "png named jpg", 6: "rgba png", 9: "palette png"}
RGB_JPEG_PERIOD = 10


def _write_picture(folder: Path, key: Sequence[int], index: int, opacities: bool) -> None:
    """Write one phantom in a size, quality and format that do not depend on its class."""
    generator = stream(key, FILE_STREAM)
    height, width = (int(length) for length in generator.integers(200, 321, 2))
    quality = int(generator.integers(60, 91))
    messy = MESSY_KINDS.get(index % MESSY_PERIOD)
    if messy:  # Lossless files are large: keep them small.
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
    """Write both splits of both classes below a folder.

    Every file is decided by seed, split, class and index alone, so a larger data set begins with
    the files of a smaller one.

    Raises:
        FileExistsError: If there is anything in ``folder/train`` or ``folder/test`` already.
    """
    for split in SPLITS:
        target = folder / split
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} is not empty; choose another folder or empty it first")
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
    """Run the command line; an unusable folder ends it with exit code 2."""
    parser = argparse.ArgumentParser(description="Write a data set of chest X-ray phantoms.")
    parser.add_argument("folder", type=Path, help="where train/ and test/ are to be made")
    parser.add_argument("--train", type=_whole_number, default=100, help="per class, default 100")
    parser.add_argument("--test", type=_whole_number, default=40, help="per class, default 40")
    parser.add_argument("--seed", type=_whole_number, default=0, help="default 0")
    options = parser.parse_args(arguments)
    try:
        write_dataset(options.folder, options.train, options.test, options.seed)
    except OSError as error:
        parser.error(str(error))
