"""What the stages note in JSON: what they found, and the settings they ran with."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from image_classifier.config import flatten
from image_classifier.errors import InputError
from image_classifier.files import whole_file
from image_classifier.schema import Config


def write_record(path: Path, config: Config, settings: list[str], **facts: Any) -> None:
    """Write what a stage found, with the settings it ran with, as JSON.

    The file is there whole, or it is the one that was there before.

    Args:
        path: The file.
        config: All settings.
        settings: Dotted names of those, or of sections, that decide the stage's output: the
            stage's `params` in dvc.yaml.
        facts: What the stage found.
    """
    values = {
        key: value
        for key, value in flatten(config).items()
        if any(key == name or key.startswith(name + ".") for name in settings)
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"settings": values, **facts}, indent=2) + "\n")


def read_record(path: Path, stage: str, **kinds: Any) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Args:
        path: The file.
        stage: The stage that makes it, for the message.
        kinds: The types of the values that are needed, e.g. `classes=list[str]`.

    Raises:
        InputError: the stage has not run, or the file is damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: run `dvc repro {stage}`.")
    try:
        record = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
        for key, kind in kinds.items():
            TypeAdapter(kind).validate_python(record.get(key), strict=True)
    except ValidationError as error:
        reason = " ".join(str(error.errors()[0]["msg"]).split())
        raise InputError(f"{path} is damaged ({reason}): run `dvc repro -f -s {stage}`.") from None
    return record
