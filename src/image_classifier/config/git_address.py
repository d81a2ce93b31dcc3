"""Which addresses of git repositories are allowed: none that runs a command or reads other files.

Git accepts more than addresses: `ext::sh -c …` runs a command, an option can take the place of a
host, and `file://` or a path with .. reads files that the owner of a repository must not choose.
"""

import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from image_classifier.project.text import is_printable

# an address as scp takes it: [user@]host:path, without a slash before the colon
SCP = re.compile(r"(?:[\w.-]+@)?[\w.][\w.-]*:[^:].*")


def check_url(url: str) -> str:
    """Return the address of a git repository, or the path of a local one, unchanged.

    Raises:
        ValueError: it is not allowed. The text does not repeat it, as it may contain a password.
    """
    _check_text(url)
    if "::" in url:
        raise ValueError("'::' runs a helper program of git: use a plain address")
    if "://" not in url:
        return url
    scheme = url.partition("://")[0]
    if scheme not in ("https", "http", "ssh", "git"):
        raise ValueError(
            "use an address that starts with https://, http://, ssh:// or git://, an address "
            "such as git@example.com:pets.git, or the path of a local repository"
        )
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
    except ValueError:  # whose text repeats the address
        raise ValueError(f"the text after {scheme}:// is not an address") from None
    if not parts.hostname or parts.hostname.startswith("-"):
        raise ValueError(f"there is no host after {scheme}://")
    if parts.password or (parts.username and scheme != "ssh"):
        raise ValueError(
            "remove user and password: settings are recorded with every run. Store them with git's "
            "credential helper, see `git help credentials`"
        )
    if (parts.username or "").startswith("-"):
        raise ValueError("a user name must not start with a dash")
    return url


def is_local(url: str) -> bool:
    """Return whether an address is the path of a local repository."""
    return "://" not in url and not SCP.fullmatch(url)


def check_revision(revision: str) -> str:
    """Return a branch, tag or commit unchanged; raise a ValueError if git would not read it so."""
    _check_text(revision)
    if re.search(r"[\s:^~?*\[\\]|\.\.|@\{|^[+/]", revision):
        raise ValueError("use the name of a branch or tag, or a commit")
    return revision


def check_subfolder(subfolder: str) -> str:
    """Return a folder of a repository unchanged; raise a ValueError if it leads out of it."""
    _check_text(subfolder)
    path = PurePosixPath(subfolder)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            "use a folder inside the repository, without .. and without a leading slash"
        )
    return subfolder


def _check_text(text: str) -> None:
    if not text or text.startswith("-"):
        raise ValueError("it must not be empty, or start with a dash as options do")
    if not is_printable(text):
        raise ValueError("it must not contain line breaks or other control characters")
