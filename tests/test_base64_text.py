"""Base64 as browsers and libraries write it is read; other texts are refused by what they are."""

import base64
import textwrap

import pytest

from image_classifier.data.unreadable import UnreadableImage
from image_classifier.serving.base64_text import decode

# its base64 has + and / and padding, and more than a line
CONTENT = bytes([0xFB, 0xEF, 0xFF, 0x3E]) * 60 + b"\xff"
TEXT = base64.b64encode(CONTENT).decode()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="plain"),
        pytest.param(f"data:image/png;base64,{TEXT}", id="FileReader"),
        pytest.param(f"data:image/png;charset=utf-8;base64,{TEXT}", id="data with a parameter"),
        pytest.param("\n".join(textwrap.wrap(TEXT, 76)), id="lines of 76"),
        pytest.param("\r\n".join(textwrap.wrap(TEXT, 64)), id="CRLF"),
        pytest.param("\n".join(textwrap.wrap(TEXT, 200)), id="long lines"),
        pytest.param("\n    ".join(textwrap.wrap(TEXT, 76)), id="indented, as in YAML"),
        pytest.param(base64.encodebytes(CONTENT).decode(), id="encodebytes"),
        pytest.param(TEXT.rstrip("="), id="no padding"),
        pytest.param(f"  {TEXT}\n", id="white space at the ends"),
        pytest.param(f" data:;base64,{TEXT.rstrip('=')}\r\n", id="all at once"),
    ],
)
def test_what_browsers_and_libraries_write_is_read(text: str):
    assert decode(text, len(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (base64.urlsafe_b64encode(CONTENT).decode(), "URL-safe base64"),
        (TEXT.replace("+", " "), "a form has changed"),
        (repr(base64.b64encode(CONTENT)), "Python's repr of bytes"),
        ("/tmp/x.png", "a path"),
        (r"C:\images\x.jpeg", "a path"),
        ("https://example.com/x.png", "an address"),
        ("data:image/svg+xml;utf8,<svg/>", "a data: address without base64"),
        ("%%%", "not base64"),
        ("a", "not base64"),
        ("bild über", "not base64"),
    ],
)
def test_other_texts_are_refused_by_what_they_look_like(text: str, reason: str):
    with pytest.raises(UnreadableImage, match=reason) as error:
        decode(text, 1000)
    assert "send the base64 of an image file" in str(error.value)


def test_the_limit_is_in_bytes_of_the_file():
    for text in (TEXT, "\r\n".join(textwrap.wrap(TEXT, 64)), f"data:image/png;base64,{TEXT}"):
        assert decode(text, len(CONTENT)) == CONTENT
        with pytest.raises(UnreadableImage, match=f"more than {len(CONTENT) - 1} bytes"):
            decode(text, len(CONTENT) - 1)
    with pytest.raises(UnreadableImage, match="more than 9 bytes"):
        decode("A" * 10_000, 9)


def test_a_text_of_many_megabytes_is_refused_at_once():
    # each took minutes with a pattern that tries every place again
    for text in (" " * 2**22 + "x", "-" * 2**22 + "!", "A \t" * 2**20, "\r" * 2**22):
        with pytest.raises(UnreadableImage, match=r"not base64|URL-safe"):
            decode(f"A{text}!", 2**24)
