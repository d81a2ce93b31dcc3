"""Copies a set of images from where it is: a local folder, or a git or DVC repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from image_classifier.data.addresses import is_local
from image_classifier.data.folders import FoundImage, PassedOver, find_images, shown
from image_classifier.errors import InputError
from image_classifier.schema import Dataset, ExternalSet

# what would make git work on another repository, such as the one whose hook runs this
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")


@dataclass(frozen=True)
class Copied:
    """Images copied to a new folder; `commit` is None where they come from no repository."""

    images: list[FoundImage]
    passed_over: list[PassedOver]
    commit: str | None


def copy(key: str, source: Dataset | ExternalSet, destination: Path) -> Copied:
    """Copy a set of images into a new folder, with their class folders.

    Args:
        key: The setting that `source` is, for messages.
        source: Where the images are.
        destination: The folder; it lies in a folder of its own, which the work is done in.

    Raises:
        InputError: it cannot be had.
        OSError: a file cannot be read or written.
    """
    minimum_classes = 2 if isinstance(source, Dataset) else 1
    if source.url is None:
        return copy_folder(Path(source.path or ""), destination, minimum_classes)
    with TemporaryDirectory(prefix="download", dir=destination.parent) as work:
        folder = Path(work) / "files"
        result = download_repository(key, source, folder)
        try:
            copied = copy_folder(folder, destination, minimum_classes)
        except InputError as error:  # names the folder in which the work is done
            raise InputError(str(error).replace(str(folder), source.url)) from None
        submodules = [PassedOver(shown(Path(p)), "a git submodule") for p in result["submodules"]]
        return Copied(copied.images, [*copied.passed_over, *submodules], result["commit"])


def copy_folder(folder: Path, destination: Path, minimum_classes: int) -> Copied:
    """Copy the images in the class folders of `folder`, with their folders."""
    found, passed_over = find_images(folder, minimum_classes)
    copied = []
    for image in found:
        target = destination / image.path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, target)
        copied.append(FoundImage(target, image.label, image.split))
    return Copied(copied, passed_over, None)


def download_repository(key: str, source: Dataset | ExternalSet, folder: Path) -> dict[str, Any]:
    """Copy `subfolder` of the repository at `url` to a new folder; return `download`'s result.

    Raises:
        InputError: it fails, or takes longer than `timeout_seconds`.
    """
    url = str(source.url)
    if is_local(url) and not Path(url).is_dir():
        raise InputError(
            f"{key}.url={url}: no such folder. Give the address of a git repository, "
            f"https://…, ssh://… or user@host:path, or the path of a local one."
        )
    command = [sys.executable, "-m", "image_classifier.data.download"]
    if source.revision:
        command.append(f"--revision={source.revision}")
    if source.subfolder:
        command.append(f"--subfolder={source.subfolder}")
    process = subprocess.Popen(
        [*command, "--", url, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,  # a terminal sees the progress
        text=True,
        env=environment(url, folder.parent),
        start_new_session=True,  # so that git, its child, ends with it
    )
    where = url + (f" at {source.revision}" if source.revision else "")
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
            f"{key}.subfolder, the network, and that you may read the repository."
        )
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


def environment(url: str, work: Path) -> dict[str, str]:
    """Return the environment for git: nothing asks for a password, or leaves files elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    own = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "file" if is_local(url) else "https:http:ssh:git",
        "LC_ALL": "C",  # git's messages are read
        "TMPDIR": str(work.absolute()),
    }
    if "GIT_SSH_COMMAND" not in kept and "GIT_SSH" not in kept and not ssh_command():
        own["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
    return kept | own


def ssh_command() -> str:
    """Return the command for SSH in the user's settings of git, or nothing."""
    try:
        return subprocess.run(
            ["git", "config", "--global", "core.sshCommand"], capture_output=True, text=True
        ).stdout.strip()
    except FileNotFoundError:
        raise InputError("git is not found: install it.") from None
