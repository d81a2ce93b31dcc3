"""An image file as text: base64 in the forms that browsers and libraries write."""

import binascii
import re

import pybase64

from image_classifier.data.unreadable import UnreadableImage

ADVICE = "send the base64 of an image file"
DATA_ADDRESS = re.compile(r"data:[^,]{0,200},")  # as a browser's FileReader writes it
SAMPLE = 500  # characters of a refused text that are looked at


def decode(text: str, largest: int) -> bytes:
    """Return the bytes that a text stands for.

    Accepts the prefix of a `data:` address, line breaks, white space at the ends, and missing
    padding (`=`). A space inside is refused: there, a form may have turned a `+` into a space.

    Args:
        text: The text.
        largest: The largest number of bytes.

    Raises:
        UnreadableImage: it is not base64, or too long; the reason says what it looks like.
    """
    longest = 4 * (largest + 2) // 3  # base64 makes 4 characters of 3 bytes
    # line breaks add 2 characters to 64 or more; a prefix is short
    if len(text) > longest + longest // 16 + 300:
        raise UnreadableImage(f"more than {largest} bytes: send a smaller file")
    content = _decoded(text)
    if content is None:
        content = _decoded(_prepared(text))
    if content is None:
        raise UnreadableImage(f"{looks_like(text)}: {ADVICE}")
    if len(content) > largest:
        raise UnreadableImage(f"more than {largest} bytes: send a smaller file")
    return content


def looks_like(text: str) -> str:
    """Return what a text that is not base64 looks like."""
    if re.match(r"https?://|ftp://|s3://|file://", text):
        return "an address: the server does not fetch images"
    if re.match(r"b['\"]", text):
        return "Python's repr of bytes: call .decode() on the base64"
    if len(text) < SAMPLE and re.search(r"[/\\.]\w{1,5}$", text):
        return "a path: the server does not read files of its machine"
    text = text[:SAMPLE]
    if re.search("[-_]", text) and re.fullmatch(r"[\w=\s-]*", text, re.ASCII):
        return "URL-safe base64 (- and _): use the standard alphabet (+ and /)"
    if " " in text.strip():
        return "not base64; the spaces inside may be + characters that a form has changed"
    return "not base64"


def _decoded(text: str) -> bytes | None:
    try:
        return bytes(pybase64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):  # ValueError: other characters than ASCII
        return None


def _prepared(text: str) -> str:
    """Return a text without prefix and line breaks, with padding."""
    text = text.strip()
    if found := DATA_ADDRESS.match(text):
        if not found[0].endswith(";base64,"):
            raise UnreadableImage(f"a data: address without base64: {ADVICE}")
        text = text[found.end() :]
    text = "".join(line.strip() for line in text.splitlines())  # MIME has lines of 76 characters
    return text + "=" * (-len(text) % 4)
