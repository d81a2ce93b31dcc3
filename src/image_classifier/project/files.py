"""Files and folders that are complete or absent, and errors that name the file."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        OSError: the file cannot be read; `filename` is set.
    """
    with with_filename(path):
        return path.read_bytes()


def new_file(path: Path) -> Path:
    """Return a path at which a new file can be written; a former file is removed.

    With DVC's cache types hardlink and symlink, an output is a file of the cache, which must not
    be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`; it replaces `path` when the block ends.

    After an exception the new file is removed, and `path` is as it was before. The new name has
    the same suffix, because some libraries choose the format by it.

    Raises:
        OSError: the file cannot be written; `filename` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        with with_filename(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # a full disk must raise before the file is renamed
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield the path of a new, empty folder beside `path`; it replaces `path` when the block ends.

    After an exception the new folder is removed, and `path` is as it was before. Remains of a
    process that was killed are removed first.

    Raises:
        OSError: the folder cannot be made or renamed.
    """
    work = path.with_name(f"{path.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    new, former = work / "new", work / "former"
    new.mkdir(parents=True)
    try:
        yield new
        if path.exists():
            path.rename(former)
        new.rename(path)  # last: only a complete folder ever has this name
    finally:
        shutil.rmtree(work, ignore_errors=True)


def merge_conflict(path: Path) -> str:
    """Return what to do about a file with merge conflict markers; empty for other files."""
    if not path.is_file() or not re.search(rb"(?m)^(<{7}|>{7}) ", path.read_bytes()):
        return ""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return (
        f"{path} has merge conflict markers (<<<<<<<). Edit it, or keep one side: `git "
        f"checkout --ours {shlex.quote(str(path))}`, or `--theirs`."
    )


@contextmanager
def with_filename(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError of the block: Python omits it for reads and writes."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
