"""Valid images with odd details are read, and their pixels stay the same.

To write pixels.json again after a wanted change: `python tests/test_odd_images.py`.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.data.images import DECODER_VERSION, Pixels, Rendering, decode
from image_classifier.data.unreadable import UnreadableImage

FOLDER = Path(__file__).parent / "odd_images"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix not in (".py", ".json"))
PIXELS = FOLDER / "pixels.json"


def read(path: Path) -> Pixels:
    return decode(path, Rendering(24, 24, 3, scale=(0.0, 4095.0)))


def digests() -> dict[str, str]:
    return {path.name: hashlib.sha256(read(path).tobytes()).hexdigest() for path in FILES}


def plain(name: str) -> Pixels:
    return read(FOLDER / name)


def test_the_pixels_of_odd_files_stay_the_same():
    stored = json.loads(PIXELS.read_text())
    assert stored["decoder"] == DECODER_VERSION
    assert len(FILES) >= 30
    assert digests() == stored["files"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_odd_details_do_not_change_the_pixels(path: Path):
    """Every file shows the same picture, turned or with fewer bits at most."""
    if path.name.startswith("grey in the last corner"):
        assert np.unique(read(path)).tolist() == [128]
        return
    expected = plain("text.png").astype(int)
    if path.suffix in (".tif", ".pgm") or "grey" in path.name or path.name == "12 bits.png":
        expected = np.repeat(expected @ [[0.299], [0.587], [0.114]], 3, axis=2)
    turns = {"orientation 6": -1, "orientation 3": 2, "orientation 8": 1}
    turn = next((n for name, n in turns.items() if name in path.name), 0)
    found = read(path).astype(int)
    if path.name == "float.tif":
        found = decode(path, Rendering(24, 24, 3, scale=(0.0, 1.0))).astype(int)
    if path.name == "signed.tif":
        found = decode(path, Rendering(24, 24, 3, scale=(-1000.0, 3095.0))).astype(int)
    if path.name == "transparent.png":
        found, expected = found[8:16, 8:16], np.rot90(expected, 0)[8:16, 8:16]
    difference = np.abs(found - np.rot90(expected, turn)).mean()
    assert difference < (130 if "1 bit" in path.name else 40 if "transparent" in path.name else 6)


@pytest.mark.parametrize("name", ["no end marker.jpg", "progressive, no end marker.jpg"])
@pytest.mark.parametrize("cut", [1, 10, 100])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff\xd9\xff\xd9"])
def test_a_jpeg_that_lacks_a_part_is_refused(name: str, cut: int, end: bytes):
    content = (FOLDER / name).read_bytes()[: -cut - 1] + end
    with pytest.raises(UnreadableImage, match=r"a part of it is missing|it is damaged"):
        decode(content, Rendering(24, 24, 3))


@pytest.mark.parametrize("progressive", [False, True])
def test_every_jpeg_that_lacks_only_its_end_marker_is_read(progressive: bool):
    """Pillow reads some of them by itself, by chance, and refuses the others."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        noise = Image.fromarray(generator.integers(0, 255, (30, 30), dtype=np.uint8))
        buffer = io.BytesIO()
        large = noise.resize((120, 120), Image.Resampling.NEAREST)
        large.save(buffer, "JPEG", quality=90, progressive=progressive)
        whole, rendering = buffer.getvalue(), Rendering(120, 120, 1)
        assert (decode(whole[:-2], rendering) == decode(whole, rendering)).all()


if __name__ == "__main__":
    stored = {"decoder": DECODER_VERSION, "files": digests()}
    PIXELS.write_text(json.dumps(stored, indent=2) + "\n")
