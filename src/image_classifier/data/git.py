"""Copies a folder out of a git or DVC repository: `python -m image_classifier.data.git …`.

It runs as a process of its own, so that fetch can end it when it takes too long. Git fetches one
commit into a bare repository, and its files are read one by one: no hook, filter or submodule of
the repository runs. Then DVC downloads the files that it stores, after a check of the repository's
DVC settings and imports. Prints one line of JSON: the commit, and the skipped submodules.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from image_classifier.config.git_address import is_local

ATTEMPTS = 3
PAUSE_SECONDS = 1.0
CLONE_IT = "clone the repository, run `dvc pull` there, and set the dataset's path to that folder"

# messages of git after which another attempt may succeed
TEMPORARY = re.compile(
    r"could not resolve|couldn't connect|failed to connect|connection (?:refused|reset|timed out|"
    r"closed)|unable to connect|early eof|unexpected disconnect|hung up|rpc failed|empty reply|"
    r"timed out|unreachable|returned error: (?:429|5\d\d)|transfer closed",
    re.IGNORECASE,
)

# What a repository's own .dvc/config may set. Other keys make DVC read credentials, settings or
# caches from places that the owner of the repository chooses.
ALLOWED_DVC_KEYS = {
    "core": {"remote", "analytics", "autostage", "check_update", "no_scm", "interactive"},
    "cache": {"type", "shared", "protected", "slow_link_warning"},
    "remote": {
        "url", "endpointurl", "region", "allow_anonymous_login", "version_aware", "worktree",
        "account_name", "projectname", "jobs", "timeout", "read_timeout", "connect_timeout",
    },
}  # fmt: skip


class DownloadError(Exception):
    """The repository cannot be downloaded; the text says why."""


def download(url: str, revision: str | None, subfolder: str, folder: Path) -> dict[str, Any]:
    """Copy `subfolder` of a repository at a revision to the new folder `folder`.

    Links are copied as links, even if they lead out of the folder: the caller decides which ones
    to follow.

    Returns:
        `commit`, and `submodules`, their paths in `subfolder`.

    Raises:
        DownloadError: the download fails, or would make DVC read other files of this machine.
    """
    clone = folder.with_name(folder.name + ".git")
    commit = clone_commit(url, revision, clone)
    listed = git(clone, "ls-tree", "-r", "-z", "--full-tree", commit)
    links, submodules, dvc_files = [], [], False
    with subprocess.Popen(
        ["git", f"--git-dir={clone}", "cat-file", "--batch"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        for entry in filter(None, listed.split("\0")):
            facts, _, name = entry.partition("\t")
            mode, _, blob = facts.split()
            dvc_files |= name.endswith((".dvc", "dvc.yaml"))
            path = place(name, subfolder, folder)
            if path and mode == "160000":
                submodules.append(str(path.relative_to(folder)))
            elif path:
                content = read_blob(process, blob)
                if content.startswith(b"version https://git-lfs"):
                    raise DownloadError(
                        f"{name} is in Git LFS, which is not supported: clone the repository with "
                        f"git-lfs, and set the dataset's path to that folder"
                    )
                if mode == "120000":
                    links.append((path, os.fsdecode(content)))
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
    if dvc_files:
        read_dvc(clone, url, commit, subfolder, folder)
    # links come last, after their folders: nothing is written through a link
    for path, _ in links:
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, target in links:
        if path.parent.resolve() == path.parent:
            path.symlink_to(target)
    if not folder.is_dir() or folder.is_symlink():
        raise DownloadError(f"it has no folder {subfolder}")
    return {"commit": commit, "submodules": submodules}


def place(name: str, subfolder: str, folder: Path) -> Path | None:
    """Return the place of a repository's file in `folder`; None if it is not in `subfolder`.

    Raises:
        DownloadError: its name leads out of the repository.
    """
    path = Path(name.lstrip("/"))
    if ".." in path.parts:
        raise DownloadError(f"{name} leads out of the repository")
    return folder / path.relative_to(subfolder) if path.is_relative_to(subfolder) else None


def read_blob(process: subprocess.Popen[bytes], blob: str) -> bytes:
    """Return a file's content from a running `git cat-file --batch`."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{blob}\n".encode())
    process.stdin.flush()
    size = int(process.stdout.readline().split()[2])
    return process.stdout.read(size + 1)[:-1]  # a line break follows


def clone_commit(url: str, revision: str | None, clone: Path) -> str:
    """Fetch one commit into a new bare repository, with several attempts; return its hash."""
    git(None, "init", "--quiet", "--bare", "--template=", str(clone))
    source = str(Path(url).resolve()) if is_local(url) else url
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fetch(clone, source, revision)
            break
        except DownloadError as error:
            if not TEMPORARY.search(str(error)):
                raise
            if attempt == ATTEMPTS:
                raise DownloadError(f"after {ATTEMPTS} attempts: {error}") from None
            time.sleep(PAUSE_SECONDS)
    named = "FETCH_HEAD" if (clone / "FETCH_HEAD").is_file() else f"{revision}"
    return git(clone, "rev-parse", "--verify", "--quiet", f"{named}^{{commit}}").strip()


def fetch(clone: Path, source: str, revision: str | None) -> None:
    """Fetch a branch, tag or commit; fetch everything for the beginning of a commit's hash."""
    try:
        git(clone, "fetch", "--depth=1", "--no-tags", source, revision or "HEAD", show=True)
    except DownloadError:
        if not re.fullmatch("[0-9a-f]{4,39}", revision or ""):
            raise
        git(clone, "fetch", "--no-write-fetch-head", source, "+refs/*:refs/*", show=True)
        (clone / "FETCH_HEAD").unlink(missing_ok=True)


def git(clone: Path | None, *command: str, show: bool = False) -> str:
    """Run git, without hooks and submodules; return its output.

    Args:
        clone: The bare repository.
        command: A git command with its arguments.
        show: Whether to show the progress on a terminal.

    Raises:
        DownloadError: git failed; the text is git's message.
    """
    options = [
        "-c", "core.hooksPath=/dev/null", "-c", "fetch.recurseSubmodules=no", "-c", "gc.auto=0",
        "-c", "maintenance.auto=false",
    ]  # fmt: skip
    if clone:
        options.append(f"--git-dir={clone}")
    progress = show and sys.stderr.isatty()
    arguments = [command[0], *(["--progress"] if progress else []), *command[1:]]
    process = subprocess.Popen(
        ["git", *options, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    errors = b""
    if show:  # such commands print next to nothing on stdout
        while chunk := os.read(process.stderr.fileno(), 4096):
            errors += chunk
            if progress:
                os.write(sys.stderr.fileno(), chunk)
    output, rest = process.communicate()
    if process.returncode != 0:
        lines = re.split(r"[\r\n]+", (errors + rest).decode(errors="replace"))
        messages = [line for line in lines if re.match("fatal|error|remote:", line, re.IGNORECASE)]
        raise DownloadError("; ".join(messages[:4]) or f"git {command[0]} failed")
    return os.fsdecode(output)


def read_dvc(clone: Path, url: str, commit: str, subfolder: str, folder: Path) -> None:
    """Add the files of a folder that DVC stores outside git."""
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    cache = clone.with_suffix(".cache")
    own_cache = Path(url).resolve() / ".dvc" / "cache"
    if is_local(url) and own_cache.is_dir():
        cache = own_cache
    settings = {"cache": {"dir": str(cache)}, "core": {"site_cache_dir": str(clone) + ".site"}}
    repository = Repo(str(clone), rev=commit, uninitialized=True, config=settings)
    check_settings(repository.config.load_one("repo") if repository.dvc_dir else {})
    for stage in repository.index.stages:
        if stage.is_import:
            raise DownloadError(
                f"{stage.relpath} imports data from another place, which is not supported: "
                f"{CLONE_IT}"
            )
    filesystem = DVCFileSystem(repository)
    for name in filesystem.find("/", dvc_only=True):
        if path := place(name, subfolder, folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(path))


def check_settings(settings: dict[str, Any]) -> None:
    """Raise a DownloadError if a repository's own .dvc/config names files of this machine."""
    sections = {name: section for name, section in settings.items() if section}
    remotes = sections.pop("remote", {})
    for name, section in [*sections.items(), *((f"remote {n}", s) for n, s in remotes.items())]:
        known = ALLOWED_DVC_KEYS.get(name.split()[0], set())
        if unknown := set(section) - known:
            raise DownloadError(
                f".dvc/config sets {', '.join(sorted(unknown))} of {name}, which is not allowed in "
                f"a dataset's repository: {CLONE_IT}"
            )
    for name, section in remotes.items():
        address = str(section.get("url", ""))
        if not re.match(r"(?:https?|s3|gs|azure|ssh|webdavs?|oss|gdrive)://", address):
            raise DownloadError(
                f".dvc/config has the remote {name} at {address}, a folder of this machine; such "
                f"remotes are not read, for safety: {CLONE_IT}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="git", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--revision")
    parser.add_argument("--subfolder", default="")
    arguments = parser.parse_args()
    try:
        result = download(
            arguments.url, arguments.revision, arguments.subfolder, arguments.folder.resolve()
        )
    except Exception as error:  # DVC's libraries raise many types; fetch shows the last line
        sys.exit(" ".join(f"{error or type(error).__name__}".split()))
    print(json.dumps(result))
