"""Which addresses of repositories are taken: none that runs a command or reaches what is not named.

Git takes far more than addresses: `ext::sh -c …` runs a command, an option may stand in for a host,
and `file://` or a path that leads upwards reads what the repository's owner should not choose.
"""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import urlsplit

# an address as of scp: [user@]host:path, with no slash before the colon
SCP = re.compile(r"(?:[\w.-]+@)?[\w.][\w.-]*:[^:].*")


def check_url(url: str) -> str:
    """Return the address of a git repository, or the path of a local one, unchanged.

    Raises:
        ValueError: it may not be used. The text does not repeat it: it may have a password in it.
    """
    _check_text(url)
    if "::" in url:
        raise ValueError("'::' calls a helper program of git: give a plain address")
    if "://" not in url:
        return url
    scheme = url.partition("://")[0]
    if scheme not in ("https", "http", "ssh", "git"):
        raise ValueError(
            "give an address that starts with https://, http://, ssh:// or git://, one such as "
            "git@example.com:pets.git, or the path of a local repository"
        )
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:  # whose text repeats the address
        raise ValueError(f"what stands after {scheme}:// is no address") from None
    if not parts.hostname or parts.hostname.startswith("-"):
        raise ValueError(f"there is no host after {scheme}://")
    if parts.password or (parts.username and scheme != "ssh"):
        raise ValueError(
            "take the user and password out: settings are recorded with every run. Let git's "
            "credential helper keep them, see `git help credentials`"
        )
    if (parts.username or "").startswith("-"):
        raise ValueError("a user's name does not start with a dash")
    return url


def is_local(url: str) -> bool:
    """Return whether an address is the path of a local repository."""
    return "://" not in url and not SCP.fullmatch(url)


def check_revision(revision: str) -> str:
    """Return a branch, tag or commit unchanged; raise a ValueError on what git reads otherwise."""
    _check_text(revision)
    if re.search(r"[\s:^~?*\[\\]|\.\.|@\{|^[+/]", revision):
        raise ValueError("give the name of a branch or tag, or a commit")
    return revision


def check_subfolder(subfolder: str) -> str:
    """Return a folder of a repository unchanged; raise a ValueError where it leads out of it."""
    _check_text(subfolder)
    path = PurePosixPath(subfolder)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("give a folder inside of the repository, without .. and a leading slash")
    return subfolder


def _check_text(text: str) -> None:
    if not text or text.startswith("-"):
        raise ValueError("it may not be empty, nor start with a dash: programs read that as option")
    if {unicodedata.category(sign) for sign in text} & {"Cc", "Cs", "Zl", "Zp"}:
        raise ValueError("it may have no line breaks, nor other control characters")
