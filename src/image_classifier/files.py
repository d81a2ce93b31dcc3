"""Files read and written so that an error names them, and that none is ever half there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        OSError: it cannot be read; `filename` is set.
    """
    with naming(path):
        return path.read_bytes()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which takes its place when the block ends.

    After an exception the new file is removed, and what was at `path` is still there. The new name
    has the same suffix: some libraries choose the format by it.

    Raises:
        OSError: it cannot be written; `filename` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        with naming(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # or a full disk would tell only after the rename
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of the block the file's name, which Python leaves out of reads and writes."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
