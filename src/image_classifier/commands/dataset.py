"""dataset: looks at a folder or git repository of images, and writes the settings for it.

    image-classifier dataset FOLDER_OR_ADDRESS [--name NAME]

Prints what it finds: classes, splits, tables, groups, and what is not used. Writes
conf/dataset/NAME.yaml, makes it the default in conf/config.yaml, and writes params.yaml:
`dvc repro` then runs the pipeline on these images.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from image_classifier.config.compose import (
    CONF,
    compose,
    replace_params,
    typed,
    validate_section,
)
from image_classifier.config.git_address import is_local
from image_classifier.config.schema import ImageSource
from image_classifier.data import sources
from image_classifier.data.selection import select_images
from image_classifier.data.survey import Survey, survey
from image_classifier.errors import InputError
from image_classifier.project import paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source", metavar="FOLDER_OR_ADDRESS", help="a folder, or the address of a git repository"
    )
    parser.add_argument("--name", help="the name of the dataset; default: of the folder")
    parser.add_argument("--revision", help="a branch, tag or commit of the repository")
    parser.add_argument("--subfolder", help="the folder of the dataset inside the repository")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    name = arguments.name or name_of(arguments.source)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise InputError(
            f"--name={name}: use lower-case letters, digits and underscores for the name."
        )
    preset = CONF / "dataset" / f"{name}.yaml"
    if preset.exists():
        raise InputError(f"{preset} exists already: remove it, or give another --name.")
    place = place_of(arguments)
    source = validate_section(ImageSource, "dataset", place)
    with (
        tempfile.TemporaryDirectory() as work,
        sources.opened("dataset", source, Path(work)) as (folder, _, _),
    ):
        found = survey(folder, local=source.url is None)
        found.settings = {"name": name, **place} | found.settings
        if source.url is not None:
            found.settings["depends_on"] = preset.relative_to(CONF.parent).as_posix()
        print("\n".join(found.findings))
        write(preset, found, folder)
    print(f"\n{preset.relative_to(CONF.parent)} is written, and is the default dataset now:\n")
    print(preset.read_text())
    print("Correct it if something is not right, and run `make params` then. Next: `dvc repro`.")
    return 0


def name_of(source: str) -> str:
    """Return a name for a dataset, from the last part of its path or address."""
    last = re.split(r"[/\\:]", source.rstrip("/\\").removesuffix(".git"))[-1]
    if last in ("", ".", ".."):
        last = Path(source).resolve().name
    return re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_") or "dataset"


def place_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that say where the images are."""
    source = arguments.source
    is_repository = source.endswith(".git") and (paths.expanded(source) / "HEAD").exists()
    if is_local(source) and not is_repository and not arguments.revision:
        if arguments.subfolder:
            source = str(Path(source) / arguments.subfolder)
        path = paths.expanded(source)
        if not path.is_dir():
            raise InputError(f"{source}: no such folder ({path.absolute()}).")
        inside = path.resolve().is_relative_to(Path.cwd().resolve())
        return {"path": str(path if inside and not path.is_absolute() else path.absolute())}
    place = {"url": source, "revision": arguments.revision, "subfolder": arguments.subfolder}
    return {key: value for key, value in place.items() if value is not None}


def write(preset: Path, found: Survey, folder: Path) -> None:
    """Write the settings, make them the default, and check that `fetch` accepts them.

    Raises:
        InputError: it does not. Then nothing is changed.
    """
    main = CONF / "config.yaml"
    before = main.read_text()
    preset.write_text(text_of(found))
    try:
        main.write_text(re.sub(r"(?m)^  - dataset: \S+", f"  - dataset: {preset.stem}", before))
        composed = compose()
        config = typed(composed)
        if config.dataset.name != preset.stem:
            raise InputError(
                f"conf/config.yaml selects an experiment preset, which sets the dataset to "
                f"{config.dataset.name}. First set `experiment: null` in conf/config.yaml."
            )
        select_images("dataset", folder, config.dataset)  # as fetch will do it
    except BaseException:
        main.write_text(before)  # both changes or none
        preset.unlink()
        raise
    replace_params(composed)


def text_of(found: Survey) -> str:
    """Return the text of the preset, with the reasons of guesses as comments."""
    images = len(found.labels.images)
    classes = len({image.label for image in found.labels.images})
    lines = [
        f"# {images} images of {classes} classes. Written by `image-classifier dataset`.",
        "defaults: [base]",
        "",
    ]
    for key, value in found.settings.items():
        if reason := found.guesses.get(key):
            lines.append(f"# a guess: {reason}")
        lines.append(f"{key}: {as_yaml(value)}")
    return "\n".join(lines) + "\n"


def as_yaml(value: Any) -> str:
    """Return a value as YAML in one line.

    Texts are in single quotes: patterns stay legible, and `yes` or `1e3` stays a text.
    """
    if isinstance(value, dict):
        items = (f"{as_yaml(key)}: {as_yaml(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else json.dumps(value)
