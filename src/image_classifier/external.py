"""external: brings the external sets into build/external, to measure on and never to train on.

Takes the folders and repositories of `external`. Gives build/external/NAME for each, with class
folders in it, and build/external/external.json.
"""

import shutil

from image_classifier import paths
from image_classifier.command_line import run_stage
from image_classifier.data import sources
from image_classifier.data.folders import told
from image_classifier.data.manifest import count
from image_classifier.errors import InputError
from image_classifier.records import read_record, write_record
from image_classifier.schema import Config

SETTINGS = ["external"]


def external(config: Config) -> None:
    """Copy every external set.

    Raises:
        InputError: one cannot be had, or has a class that the dataset lacks.
        OSError: a file cannot be read or written. The former sets are still there then.
    """
    fetched = read_record(paths.FETCHED, "fetch", counts=dict[str, dict[str, int]])["counts"]
    classes = {label for labels in fetched.values() for label in labels}
    partial = paths.EXTERNAL.with_name("external.partial")
    former = paths.EXTERNAL.with_name("external.former")
    for left in (partial, former):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    sets = {}
    try:
        for name, source in config.external.items():
            copied = sources.copy(f"external.{name}", source, partial / name)
            if unknown := {image.label for image in copied.images} - classes:
                raise InputError(
                    f"external.{name} has the class {', '.join(sorted(unknown))}, which the "
                    f"dataset lacks: rename its folder to one of {', '.join(sorted(classes))}."
                )
            sets[name] = {
                "source": source.url or source.path,
                "commit": copied.commit,
                "counts": count(copied.images),
                "passed_over": {item.path: item.reason for item in copied.passed_over},
            }
            print(f"{name}: {len(copied.images)} images from {sets[name]['source']}")
            if copied.passed_over:
                print(told(copied.passed_over))
        write_record(partial / paths.EXTERNAL_RECORD.name, config, SETTINGS, sets=sets)
        if paths.EXTERNAL.exists():
            paths.EXTERNAL.rename(former)
        partial.rename(paths.EXTERNAL)  # only a whole collection ever has this name
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
    if not sets:
        print("No external sets.")


if __name__ == "__main__":
    run_stage(external)
