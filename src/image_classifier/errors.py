"""Errors that the user can fix, and what the screen says about them."""

import errno

DISK_FULL = (
    "Free some space, or let DVC keep its files on a larger disk: `dvc cache dir --local "
    "/path/on/that/disk`. Then run the command again."
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
    return f"{message} {ADVICE.get(error.errno or 0, '')}".rstrip()
