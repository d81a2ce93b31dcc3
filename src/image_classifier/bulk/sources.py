"""The files to classify, in folders of this machine or in buckets of S3.

Both have a name as text: a path, or an address s3://BUCKET/KEY. S3 is read with the settings of
AWS's own programs: AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION and the others, ~/.aws, and
AWS_ENDPOINT_URL for another service than Amazon's.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.data.folders import check_name, find_files, is_ignored, walk
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import read_bytes

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

S3 = "s3://"


def source(text: str) -> str:
    """Return a path in which `~` is the home folder, or an address of S3, for argparse."""
    if "://" in text and not text.startswith(S3):
        raise InputError(f"{text}: only files, folders and addresses s3://BUCKET/FOLDER are read.")
    return text if text.startswith(S3) else str(paths.expanded(text))


def check(sources: Sequence[str]) -> None:
    """Check that the files and folders of this machine exist.

    Raises:
        InputError: one does not.
    """
    for place in sources:
        if not place.startswith(S3) and not Path(place).exists():
            raise InputError(f"{place}: no such file or folder.")


def find(sources: Sequence[str]) -> Iterator[str]:
    """Yield the given files, and the files in the given folders except ignored ones, in order.

    Raises:
        InputError: a file or folder does not exist, S3 does not answer, or a name cannot be
            printed.
    """
    for place in sources:
        if place.startswith(S3):
            yield from _find_objects(place)
        else:
            folder = Path(place)
            for path in walk(folder) if folder.is_dir() else find_files([folder]):
                check_name(path)
                yield str(path)


def read(name: str) -> bytes:
    """Return the content of a file.

    Raises:
        UnreadableImage: it no longer exists.
        OSError: it cannot be read.
    """
    try:
        if not name.startswith(S3):
            return read_bytes(Path(name))
        with _filesystem(_bucket(name)).open_input_file(name.removeprefix(S3)) as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise UnreadableImage("the file no longer exists") from None


def _find_objects(address: str) -> Iterator[str]:
    from pyarrow.fs import FileType

    place = address.removeprefix(S3).rstrip("/")
    try:
        filesystem = _filesystem(_bucket(address))
        kind = filesystem.get_file_info(place).type
        if kind == FileType.File:
            yield f"{S3}{place}"
        elif kind == FileType.Directory:
            yield from _walk_objects(filesystem, place)
        else:
            raise InputError(f"{address}: no such file or folder.")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{address} cannot be listed: {reason} AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, "
            f"for another service than Amazon's, AWS_ENDPOINT_URL say how it is reached."
        ) from None


def _walk_objects(filesystem: "FileSystem", folder: str) -> Iterator[str]:
    """Yield the objects below a folder, as `folders.walk` does."""
    from pyarrow.fs import FileSelector, FileType

    found = filesystem.get_file_info(FileSelector(folder))
    for info in sorted(found, key=lambda info: info.base_name):
        if is_ignored(info.base_name):
            continue
        if info.type == FileType.Directory:
            yield from _walk_objects(filesystem, info.path)
        else:
            check_name(Path(info.path))
            yield f"{S3}{info.path}"


def _bucket(address: str) -> str:
    return address.removeprefix(S3).partition("/")[0]


@cache
def _filesystem(bucket: str) -> "FileSystem":
    """Return the file system of a bucket.

    Raises:
        OSError: Amazon does not know the bucket.
    """
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = resolve_s3_region(bucket)
    return S3FileSystem(endpoint_override=endpoint, region=region)
