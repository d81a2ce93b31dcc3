"""Thousands of damaged images, manifests and records: each is read, or raises the right error."""

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_classifier.config import compose
from image_classifier.data.images import Rendering, decode, inspect
from image_classifier.data.manifest import ImageRow, read_manifest, write_manifest
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.records import read_record
from image_classifier.stages.external import external
from image_classifier.stages.prepare import prepare

# the same inputs in every run; on a busy machine, a slow example is not a failure
FIXED = {
    "derandomize": True, "deadline": None, "database": None,
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip
FEW, MANY = 500, 10_000


def encoded(format: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


SEEDS = [
    encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", "CMYK"), encoded("PNG"),
    encoded("PNG", "P"), encoded("PNG", "RGBA"), encoded("GIF"), encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", compression="jpeg"),
    encoded("WEBP"), encoded("BMP"), encoded("TGA"), encoded("ICO"), encoded("PPM"),
    encoded("JPEG2000"), encoded("AVIF"),
]  # fmt: skip
HEADERS = sorted({seed[:12] for seed in SEEDS})


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Valid content with bytes that are changed, removed, repeated or cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["byte", "number", "cut", "double", "end"]))
        if kind == "byte":
            content[place] = draw(st.integers(0, 255))
        elif kind == "number":  # as sizes and offsets are stored
            number = draw(st.sampled_from([0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1]))
            order = draw(st.sampled_from(["big", "little"]))
            content[place : place + 4] = number.to_bytes(4, order)
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        else:
            del content[place:]
    return bytes(content)


RANDOM = st.binary(max_size=300) | st.builds(
    lambda header, rest: header + rest, st.sampled_from(HEADERS), st.binary(max_size=300)
)


def check_image(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Pillow, about damaged tags
        for read, shape in (
            (lambda: inspect(content)[1], (120, 120, 1)),
            (lambda: decode(content, Rendering(9, 7, 3, scale="own")), (9, 7, 3)),
            (lambda: decode(content, Rendering(5, 11, 1, scale="own")), (5, 11, 1)),
        ):
            try:
                pixels = read()
            except UnreadableImage as error:
                assert str(error)
            else:
                assert pixels.shape == shape
                assert pixels.dtype == np.uint8


def fuzz(check: Callable[..., None], examples: int, **strategies: st.SearchStrategy) -> None:
    settings(max_examples=examples, **FIXED)(given(**strategies)(check))()


def few_and_many(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test with a few examples, and with twenty times as many as a slow test."""
    slow = pytest.param(MANY, marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [FEW, slow])(test)


@few_and_many
def test_random_bytes_are_an_image_or_unreadable(examples: int):
    fuzz(check_image, examples, content=RANDOM)


@few_and_many
def test_a_damaged_image_is_read_or_unreadable(examples: int):
    fuzz(check_image, 2 * examples, content=damaged(SEEDS))


@pytest.fixture
def manifest(empty_project: Path) -> bytes:
    """A manifest with names that need quotes in CSV."""
    names = ["cat/1.png", 'cat/a,"b" ü.png', "dog/1.png"]
    write_rows(names)
    return paths.MANIFEST.read_bytes()


def write_rows(names: list[str]) -> None:
    rest = "train", "a" * 64, "0" * 144, "", "", -1, "PNG", "L", 9, 9, 1
    write_manifest([ImageRow(name, name.split("/")[0], *rest) for name in names])


@few_and_many
def test_a_damaged_manifest_is_read_or_named(manifest: bytes, examples: int):
    own = compose.config_of()

    def check(content: bytes) -> None:
        paths.MANIFEST.write_bytes(content)
        try:
            rows = read_manifest()
        except InputError as error:
            assert str(paths.MANIFEST) in str(error)
        else:
            assert rows
            # none of the listed files exists, and prepare opens no other file
            with pytest.raises(InputError, match="was deleted after split"):
                prepare(own)

    fuzz(check, examples, content=damaged([manifest]) | st.binary(max_size=200))
    assert not paths.IMAGES.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["counts", "settings", "all", "x"]), children, max_size=3)
    ),
    max_leaves=8,
)


@few_and_many
def test_a_damaged_record_is_read_or_named(empty_project: Path, examples: int):
    record = b'{"settings": {"dataset.path": "data"}, "counts": {"all": {"cat": 3, "dog": 4}}}\n'
    own = compose.config_of()
    paths.BUILD.mkdir()

    def check(content: bytes) -> None:
        paths.FETCHED.write_bytes(content)
        try:
            read_record(paths.FETCHED, "fetch", settings=dict[str, Any])
            external(own)
        except InputError as error:
            assert str(paths.FETCHED) in str(error)

    any_json = JSON.map(lambda value: json.dumps(value).encode())
    # nested more deeply than Python's JSON parser allows
    deep = st.just(b"[" * 100_000)
    with contextlib.redirect_stdout(io.StringIO()):
        fuzz(check, examples, content=damaged([record]) | any_json | deep)
