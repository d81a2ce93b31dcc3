"""Names that come from outside, which may contain anything, and small parts of sentences."""

import os
import unicodedata
from pathlib import Path

# control characters, surrogates (bytes that are not UTF-8), line and paragraph separators
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


def is_printable(text: str) -> bool:
    """Return whether text fits into one line: no control characters, and all of it is UTF-8."""
    return not {unicodedata.category(character) for character in text} & UNPRINTABLE


def printable(path: Path) -> str:
    """Return a path as one line: what cannot be printed becomes an escape sequence."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if is_printable(text) else text.encode("unicode_escape").decode()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 run` or `2 runs`."""
    return f"{number} {noun}{'s' * (number != 1)}"
