"""external: brings the external sets into build/external, to measure on and never to train on.

Takes the folders and repositories of `external`. Gives build/external/NAME for each, with class
folders in it, and build/external/external.json.
"""

import json
import shutil

from image_classifier import paths, sources
from image_classifier.command_line import run_stage
from image_classifier.config import Config
from image_classifier.dataset import count, find_images, write_record
from image_classifier.errors import InputError

SETTINGS = ["external"]


def external(config: Config) -> None:
    """Copy every external set.

    Raises:
        InputError: one cannot be had, or has a class that the dataset lacks.
    """
    if not paths.FETCHED.is_file():
        raise InputError(f"{paths.FETCHED} not found: run `dvc repro fetch`.")
    fetched = json.loads(paths.FETCHED.read_text())["counts"]
    classes = {label for labels in fetched.values() for label in labels}
    partial = paths.EXTERNAL.with_name("external.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sets = {}
    try:
        for name, source in config.external.items():
            commit = sources.copy(f"external.{name}", source, partial / name)
            images = find_images(partial / name, minimum_classes=1)
            if unknown := {image.label for image in images} - classes:
                raise InputError(
                    f"external.{name} has the class {', '.join(sorted(unknown))}, which the "
                    f"dataset lacks: rename its folder to one of {', '.join(sorted(classes))}."
                )
            sets[name] = {
                "source": source.url or source.path, "commit": commit, "counts": count(images)
            }  # fmt: skip
            print(f"{name}: {len(images)} images from {sets[name]['source']}")
        shutil.rmtree(paths.EXTERNAL, ignore_errors=True)
        partial.rename(paths.EXTERNAL)  # only a whole collection ever has this name
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_record(paths.EXTERNAL_RECORD, config, SETTINGS, sets=sets)
    if not sets:
        print("No external sets.")


if __name__ == "__main__":
    run_stage(external)
