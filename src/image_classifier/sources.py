"""Copies a set of images from where it is: a local folder, or a git or DVC repository."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from image_classifier.config import Dataset, ExternalSet
from image_classifier.dataset import find_images
from image_classifier.errors import InputError


def copy(key: str, source: Dataset | ExternalSet, destination: Path) -> str | None:
    """Copy a set of images into a new folder; return the commit where it is a repository.

    Args:
        key: The setting that `source` is, for messages.
        source: Where the images are.
        destination: The folder.

    Raises:
        InputError: it cannot be had.
    """
    if source.url is not None:
        return download_repository(key, source, destination)
    copy_folder(Path(source.path or ""), destination, 2 if isinstance(source, Dataset) else 1)
    return None


def copy_folder(folder: Path, destination: Path, minimum_classes: int) -> None:
    """Copy the images in the class folders of `folder`, with their folders."""
    for image in find_images(folder, minimum_classes):
        target = destination / image.path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, target)


def download_repository(key: str, source: Dataset | ExternalSet, destination: Path) -> str:
    """Copy `subfolder` of the repository at `url`; return the commit.

    Raises:
        InputError: it fails, or takes longer than `timeout_seconds`.
    """
    command = [sys.executable, "-m", "image_classifier.download"]
    if source.revision:
        command.append(f"--revision={source.revision}")
    if source.subfolder:
        command.append(f"--subfolder={source.subfolder}")
    command += ["--", str(source.url), str(destination)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,  # a terminal sees the progress
        text=True,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"},
        start_new_session=True,  # so that git, its child, ends with it
    )
    where = f"{source.url}" + (f" at {source.revision}" if source.revision else "")
    try:
        output, errors = process.communicate(timeout=source.timeout_seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise InputError(
                f"{where} was not fetched within {key}.timeout_seconds="
                f"{source.timeout_seconds:g}. Check the address and the network, or allow more."
            ) from None
        raise
    if process.returncode != 0:
        reason = (errors or "").strip().splitlines()[-1:] or ["see above"]
        raise InputError(
            f"{where} cannot be fetched ({reason[0]}). Check {key}.url, {key}.revision and "
            f"{key}.subfolder={source.subfolder}, and that you may read the repository."
        )
    return output.strip().splitlines()[-1]
