"""SHA-256 digests of files and folders, to tell whether they have changed."""

import hashlib
from pathlib import Path


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_folder(folder: Path) -> str:
    """Return a SHA-256 over the relative paths and contents of all files, in hexadecimal.

    Skips `__pycache__`, which Python writes when it runs code in the folder.
    """
    total = hashlib.sha256()
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name in sorted(names):
        if names[name].is_file() and "__pycache__" not in name.split("/"):
            total.update(f"{of_file(names[name])}  {name}\n".encode())
    return total.hexdigest()
