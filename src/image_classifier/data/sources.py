"""Copies images from their source: a local folder, or a git or DVC repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from image_classifier.config.git_address import is_local
from image_classifier.config.schema import Dataset, ImageSource
from image_classifier.data import git
from image_classifier.data.folders import FoundImage, SkippedFile, find_images
from image_classifier.errors import InputError
from image_classifier.project.text import printable

# these would make git use another repository, such as the one whose hook runs this code
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")


@dataclass(frozen=True)
class Copied:
    """Images that were copied; `commit` is None unless they come from a repository."""

    images: list[FoundImage]
    skipped: list[SkippedFile]
    commit: str | None


def copy(
    key: str,
    source: ImageSource,
    destination: Path,
    check: Callable[[set[str]], object] = bool,
) -> Copied:
    """Copy images with their class folders into a new folder.

    Args:
        key: The name of the setting `source`, for messages.
        source: Where the images are.
        destination: The new folder. A download uses a temporary folder beside it.
        check: Called with the classes of a local folder before it is copied; may raise. The
            classes of a repository are checked later, so that the download is not lost.

    Raises:
        InputError: the images cannot be found or downloaded.
        OSError: a file cannot be read or written.
    """
    minimum_classes = 2 if isinstance(source, Dataset) else 1
    if source.url is None:
        return copy_folder(Path(source.path or ""), destination, minimum_classes, check)
    with TemporaryDirectory(prefix="download", dir=destination.parent) as work:
        folder = Path(work) / "files"
        result = download_repository(key, source, folder)
        try:
            copied = copy_folder(folder, destination, minimum_classes)
        except InputError as error:  # its text names the temporary folder
            raise InputError(str(error).replace(str(folder), source.url)) from None
        submodules = [
            SkippedFile(printable(Path(path)), "a git submodule") for path in result["submodules"]
        ]
        return Copied(copied.images, [*copied.skipped, *submodules], result["commit"])


def copy_folder(
    folder: Path,
    destination: Path,
    minimum_classes: int,
    check: Callable[[set[str]], object] = bool,
) -> Copied:
    """Copy the images in the class folders of `folder`, with these folders."""
    found, skipped = find_images(folder, minimum_classes)
    check({image.label for image in found})
    copied = []
    for image in found:
        target = destination / image.path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, target)
        copied.append(FoundImage(target, image.label, image.split))
    return Copied(copied, skipped, None)


def download_repository(key: str, source: ImageSource, folder: Path) -> dict[str, Any]:
    """Copy `subfolder` of the repository at `url` to a new folder; return the result of `git`.

    Raises:
        InputError: the download fails, or takes longer than `timeout_seconds`.
    """
    url = str(source.url)
    if is_local(url) and not Path(url).is_dir():
        raise InputError(
            f"{key}.url={url}: no such folder. Set it to the address of a git repository, "
            f"https://…, ssh://… or user@host:path, or the path of a local one."
        )
    command = [sys.executable, "-m", git.__name__]
    if source.revision:
        command.append(f"--revision={source.revision}")
    if source.subfolder:
        command.append(f"--subfolder={source.subfolder}")
    process = subprocess.Popen(
        [*command, "--", url, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,  # a terminal shows the progress
        text=True,
        env=environment(url, folder.parent),
        start_new_session=True,  # so that its child processes can be ended with it
    )
    where = url + (f" at {source.revision}" if source.revision else "")
    try:
        output, errors = process.communicate(timeout=source.timeout_seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise InputError(
                f"{where} was not downloaded within {key}.timeout_seconds="
                f"{source.timeout_seconds:g}. Check the address and the network, or allow more."
            ) from None
        raise
    if process.returncode != 0:
        reason = (errors or "").strip().splitlines()[-1:] or ["see above"]
        advice = (
            ""
            if git.CLONE_IT in reason[0]
            else f" Check {key}.url, {key}.revision and {key}.subfolder, the network, and your "
            f"permission to read the repository."
        )
        raise InputError(f"{where} cannot be downloaded ({reason[0]}).{advice}")
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


def environment(url: str, work: Path) -> dict[str, str]:
    """Return the environment for git: it never asks for a password, and writes files only here."""
    kept = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    own = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "file" if is_local(url) else "https:http:ssh:git",
        "LC_ALL": "C",  # this code reads git's messages
        "TMPDIR": str(work.absolute()),
    }
    if "GIT_SSH_COMMAND" not in kept and "GIT_SSH" not in kept and not ssh_command():
        own["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
    return kept | own


def ssh_command() -> str:
    """Return the SSH command in the user's git settings, or an empty text."""
    try:
        return subprocess.run(
            ["git", "config", "--global", "core.sshCommand"], capture_output=True, text=True
        ).stdout.strip()
    except FileNotFoundError:
        raise InputError("git was not found: install it.") from None
