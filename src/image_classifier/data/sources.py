"""Copies images from their source: a local folder, or a git or DVC repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from image_classifier.config.git_address import is_local
from image_classifier.config.schema import Dataset, ImageSource
from image_classifier.data import git
from image_classifier.data.folders import SUBMODULE
from image_classifier.data.labels import Labels, UnusedFile
from image_classifier.data.selection import select_images
from image_classifier.errors import InputError
from image_classifier.project.paths import located
from image_classifier.project.text import printable

# these would make git use another repository, such as the one whose hook runs this code
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")


def copy(
    key: str,
    source: ImageSource,
    destination: Path,
    check: Callable[[set[str]], object] = bool,
) -> tuple[Labels, str | None]:
    """Copy the images of a dataset that are used into a new folder.

    Args:
        key: The name of the setting `source`, for messages.
        source: Where the images are, and what is used of them.
        destination: The new folder. A download uses a temporary folder beside it.
        check: Called with the classes before a local folder is copied; may raise.

    Returns:
        The images with their classes and what is not used, and the commit of a repository.

    Raises:
        InputError: the images cannot be found or downloaded.
        OSError: a file cannot be read or written.
    """
    with opened(key, source, destination.parent) as (folder, submodules, commit):
        minimum_classes = 2 if isinstance(source, Dataset) else 1
        labels = select_images(key, folder, source, minimum_classes)
        labels.unused += submodules
        check({image.label for image in labels.images})
        destination.mkdir(parents=True, exist_ok=True)
        paths = sorted({image.path for image in labels.images})
        for path in tqdm(paths, "Copying", disable=None):
            target = destination / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, target)
        return labels, commit


@contextmanager
def opened(
    key: str, source: ImageSource, work: Path
) -> Iterator[tuple[Path, list[UnusedFile], str | None]]:
    """Yield the folder of a dataset, its git submodules, and the commit of a repository.

    Args:
        key: The name of the setting `source`, for messages.
        source: Where the images are.
        work: The folder in which a repository is downloaded, for the time of the block.

    Raises:
        InputError: the folder does not exist, or the download fails. In an error of the block, the
            address of the repository replaces the temporary folder.
    """
    if source.url is None:
        yield located(f"{key}.path", source.path or "", "folder"), [], None
        return
    with TemporaryDirectory(prefix="download", dir=work) as temporary:
        folder = Path(temporary) / "files"
        result = download_repository(key, source, folder)
        submodules = [UnusedFile(printable(Path(path)), SUBMODULE) for path in result["submodules"]]
        try:
            yield folder, submodules, result["commit"]
        except InputError as error:
            raise InputError(str(error).replace(str(folder), source.url)) from None


def download_repository(key: str, source: ImageSource, folder: Path) -> dict[str, Any]:
    """Copy `subfolder` of the repository at `url` to a new folder; return the result of `git`.

    Raises:
        InputError: the download fails, or takes longer than `timeout_seconds`.
    """
    url = str(source.url)
    address = url
    if is_local(url):
        try:
            address = str(located(f"{key}.url", url, "folder"))
        except InputError as error:
            raise InputError(
                f"{error} Set it to the address of a git repository, https://…, ssh://… or "
                f"user@host:path, or the path of a local one."
            ) from None
    command = [sys.executable, "-m", git.__name__]
    if source.revision:
        command.append(f"--revision={source.revision}")
    if source.subfolder:
        command.append(f"--subfolder={source.subfolder}")
    process = subprocess.Popen(
        [*command, "--", address, str(folder)],
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
