"""The file of the results, which is written part by part: a run that was killed goes on.

Until it is complete, its parts are in the folder FILE.partial, with the list of the files to
classify and the settings of the run. Part k has the results of the k-th thousand of that list, so
what is missing is known from the names of the parts. A part has its name only when it is complete,
and so has FILE.
"""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from image_classifier.bulk.rows import csv_values
from image_classifier.errors import InputError
from image_classifier.project.files import whole_file

PART = 1000  # files in a part: what a kill loses at most
GROUP = 100  # parts in a row group of the Parquet file
ENDINGS = (".csv", ".parquet")
FILES, SETTINGS = "files.jsonl", "settings.json"  # in the folder of an incomplete output


def check_target(target: Path) -> None:
    """Check that an output file can be written, before anything is loaded.

    Raises:
        InputError: it is neither CSV nor Parquet, or it exists.
    """
    if target.suffix not in ENDINGS:
        raise InputError(f"--output {target}: name a file that ends in {' or '.join(ENDINGS)}.")
    if target.exists():
        shutil.rmtree(work_of(target), ignore_errors=True)  # killed after the last step but one
        raise InputError(f"{target} exists, and is complete. Delete it to classify again.")


def work_of(target: Path) -> Path:
    """Return the folder of an output file that is not complete."""
    return target.with_name(f"{target.name}.partial")


@dataclass(frozen=True)
class Output:
    """An output file that is not complete.

    Attributes:
        target: The file.
        total: How many files are classified.
    """

    target: Path
    total: int

    def missing(self) -> list[int]:
        """Return the numbers of the missing parts, from 1."""
        parts = range(1, -(-self.total // PART) + 1)
        return [number for number in parts if not self._part(number).exists()]

    def size(self, number: int) -> int:
        """Return how many files a part has: `PART`, but for the last one."""
        return min(PART, self.total - (number - 1) * PART)

    def files(self, parts: Iterable[int]) -> Iterator[list[str]]:
        """Yield the names of the files of each of the parts, which are in ascending order."""
        with (work_of(self.target) / FILES).open() as lines:
            passed = 0
            for number in parts:
                chosen = islice(lines, (number - 1 - passed) * PART, (number - passed) * PART)
                yield [json.loads(line) for line in chosen]
                passed = number

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part, completely or not at all."""
        with whole_file(self._part(number)) as file:
            pq.write_table(table, file)

    def finish(self) -> int:
        """Write the file from its parts; return how many of its rows are unreadable files."""
        parts = [self._part(number) for number in range(1, -(-self.total // PART) + 1)]
        opened = _csv if self.target.suffix == ".csv" else _parquet
        bar = tqdm(total=self.total, desc=f"Writing {self.target}", unit="row", disable=None)
        unreadable = 0
        with (
            whole_file(self.target) as file,
            opened(file, pq.read_schema(parts[0])) as write,
            bar,
        ):
            for start in range(0, len(parts), GROUP):
                group = pa.concat_tables(map(pq.read_table, parts[start : start + GROUP]))
                write(group)
                unreadable += len(group) - group["error"].null_count
                bar.update(len(group))
        shutil.rmtree(work_of(self.target))
        return unreadable

    def _part(self, number: int) -> Path:
        return work_of(self.target) / f"part-{number:06}.parquet"


@contextmanager
def begin(
    target: Path, settings: Mapping[str, Any], find: Callable[[], Iterable[str]]
) -> Iterator[Output]:
    """Yield an output file, begun now or by an earlier run; no other process can go on meanwhile.

    Args:
        target: The file.
        settings: What the results depend on, ready for JSON.
        find: Returns the names of the files to classify; an earlier run has found them already.

    Raises:
        InputError: an earlier run had other settings, another process writes the file, or there
            is nothing to classify.
    """
    work = work_of(target)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            _check_settings(work, settings)
            if not (work / FILES).exists():
                own = f"{work.absolute()}{os.sep}"  # the folder may be among the sources
                names = (name for name in find() if not str(Path(name).absolute()).startswith(own))
                _list(names, work / FILES)
            with (work / FILES).open() as lines:
                total = sum(1 for _ in lines)
            if not total:
                shutil.rmtree(work)
                raise InputError("no file to classify.")
            yield Output(target, total)
    except Timeout:
        raise InputError(f"another process is writing {target}: wait until it has ended.") from None


def _check_settings(work: Path, settings: Mapping[str, Any]) -> None:
    """Compare the settings with those of an earlier run, or store them."""
    path = work / SETTINGS
    if not path.exists():
        with whole_file(path) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n")
    earlier = json.loads(path.read_text())
    for name in settings:
        if earlier.get(name) != settings[name]:
            raise InputError(
                f"{work} has results with {name} {earlier.get(name)}; now it is {settings[name]}. "
                f"Repeat the earlier command to go on with it, or delete that folder to begin "
                f"again."
            )


def _list(names: Iterable[str], path: Path) -> None:
    """Write the names, one in a line, as JSON."""
    with whole_file(path) as partial, partial.open("w") as lines:
        for name in tqdm(names, "Listing files", unit="file", disable=None):
            lines.write(json.dumps(name) + "\n")


@contextmanager
def _csv(file: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:
    """Yield a function that writes rows to a CSV file."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(schema.names)
        yield lambda table: writer.writerows(
            csv_values(row) for part in table.to_batches() for row in part.to_pylist()
        )


@contextmanager
def _parquet(file: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:
    """Yield a function that writes rows to a Parquet file."""
    with pq.ParquetWriter(file, schema) as writer:
        yield writer.write_table
