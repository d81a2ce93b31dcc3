"""CSV files with one row for each object of a dataclass."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from image_classifier.errors import InputError

Row = TypeVar("Row")


def write_rows(rows: Iterable[Any], kind: type, path: Path) -> None:
    """Write a CSV file with a column for each field of a dataclass.

    Args:
        rows: Objects of the dataclass.
        kind: The dataclass.
        path: The file; its folder exists.
    """
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _names(kind), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(
    path: Path, stage: str, kind: type[Row], parse: Callable[[dict[str, str]], Row]
) -> list[Row]:
    """Read what `write_rows` wrote.

    Args:
        path: The file.
        stage: The stage that writes it, for messages.
        kind: The dataclass.
        parse: Returns the object of a row, which has a text for each field; it may raise a
            ValueError with what is wrong.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: run `dvc repro {stage}`.")
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != _names(kind):
                raise ValueError(f"its columns are not {', '.join(_names(kind))}")
            return [parse(_complete(row)) for row in reader]
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): run `dvc repro -f -s {stage}`.") from None


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _complete(row: dict[str, str]) -> dict[str, str]:
    if None in row or None in row.values():
        raise ValueError("a row has too few or too many fields")
    return row
