"""Runs a stage from the command line: reads params.yaml, shows what a user can mend in one line."""

import argparse
import errno
import sys
from collections.abc import Callable

from image_classifier import config
from image_classifier.errors import InputError
from image_classifier.schema import Config

FULL = "Free some space, or let build/ be a link to a larger disk; then run it again."
ADVICE = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: "Files may not grow so large here: see `ulimit -f`.",
    errno.EACCES: "You need the right to read it, or to write it: see `ls -ld`.",
    errno.EPERM: "You need the right to read it, or to write it: see `ls -ld`.",
    errno.EROFS: "The disk is mounted read-only.",
    errno.EMFILE: "Too many files are open at once: see `ulimit -n`.",
    errno.EIO: "The disk or the network drive fails: copy what you need from it.",
}


def run_stage(stage: Callable[[Config], None]) -> None:
    """Run `stage` with the settings of params.yaml; exit 1 with a message on what can be mended."""
    description = sys.modules[stage.__module__].__doc__
    argparse.ArgumentParser(prog=stage.__name__, description=description).parse_args()
    try:
        stage(config.load())
    except (InputError, OSError) as error:
        sys.exit(f"{stage.__name__}: {explain(error)}")
    except MemoryError:
        sys.exit(f"{stage.__name__}: the memory is full. Close other programs, or add memory.")


def explain(error: InputError | OSError) -> str:
    """Return what a person needs of an error: which file, what is wrong, what to do."""
    if isinstance(error, InputError) or error.strerror is None:
        return str(error)
    path = error.filename2 or error.filename  # of two, the second is the one that is written
    advice = ADVICE.get(error.errno or 0, "")
    return f"{path}: {error.strerror}. {advice}" if path else f"{error.strerror}. {advice}"
