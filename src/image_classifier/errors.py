"""Errors that the user can fix, and what the screen says about them."""

import errno
from pathlib import Path

CACHE = Path(".dvc/cache")
DISK_FULL = "Free some space on this disk. Then run the command again."
MOVE_CACHE = (
    f"{DISK_FULL} To move DVC's cache to a larger disk, and let build/ link to it: `mv {CACHE} "
    "/that/disk/ && dvc cache dir --local /that/disk/cache && dvc config --local cache.type "
    "symlink && dvc checkout --relink`."
)
NO_PERMISSION = "Check the permissions with `ls -ld`."
ADVICE = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EFBIG: "The file size limit is reached; check `ulimit -f`.",
    errno.EACCES: NO_PERMISSION,
    errno.EPERM: NO_PERMISSION,
    errno.EROFS: "The disk is mounted read-only.",
    errno.EMFILE: "Too many files are open at once; check `ulimit -n`.",
    errno.EIO: "The disk or the network drive is failing: copy what you need from it.",
}


class InputError(Exception):
    """Wrong input, configuration or environment; the text says how to fix it: no traceback."""


def explain_os_error(error: OSError) -> str:
    """Return which file an OSError is about, what is wrong, and what to do."""
    if error.strerror is None:
        return str(error)
    path = error.filename2 or error.filename  # of two, the second is the one that is written
    message = f"{path}: {error.strerror}." if path else f"{error.strerror}."
    advice = ADVICE.get(error.errno or 0, "")
    # without a cache, nothing can be moved; and another disk may be the full one
    in_project = not path or Path(str(path)).absolute().is_relative_to(Path.cwd())
    if advice == DISK_FULL and in_project and CACHE.is_dir():
        advice = MOVE_CACHE
    return f"{message} {advice}".rstrip()
