"""The JSON records of the stages: what they found, and the settings they ran with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from image_classifier.errors import InputError
from image_classifier.project.files import merge_conflict, whole_file


def write_record(path: Path, settings: Mapping[str, Any], **facts: Any) -> None:
    """Write what a stage found, with the settings it ran with, as JSON.

    The file is either complete or unchanged.

    Args:
        path: The file.
        settings: The settings that decide the stage's output; see `config.compose.selected`.
        facts: What the stage found.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"settings": settings, **facts}, indent=2) + "\n")


def read_record(path: Path, stage: str, **types: Any) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Args:
        path: The file.
        stage: The stage that writes the file, for the message.
        types: The types of the values that are needed, e.g. `classes=list[str]`.

    Raises:
        InputError: the stage has not run, or the file is damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: run `dvc repro {stage}`.")
    try:
        record = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
        for key, kind in types.items():
            TypeAdapter(kind).validate_python(record.get(key), strict=True)
    except ValidationError as error:
        if advice := merge_conflict(path):
            raise InputError(f"{advice} Then run `dvc repro`.") from None
        reason = " ".join(str(error.errors()[0]["msg"]).split())
        raise InputError(f"{path} is damaged ({reason}): run `dvc repro -f -s {stage}`.") from None
    return record
