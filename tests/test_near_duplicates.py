"""True copies are found; images of a fixed camera, and plain images, are not called copies."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.data import near_duplicates
from image_classifier.data.images import decode
from image_classifier.data.manifest import read_manifest
from image_classifier.data.near_duplicates import CLOSE_VIEW, Pair, find_pairs, fingerprint
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch
from image_classifier.stages.split import split
from phantoms.drawing import phantom


def settings(positive: str, *overrides: str) -> Config:
    own = ["dataset=folder", "dataset.name=pets", "dataset.path=pets"]
    return compose.config_of(*own, f"dataset.positive_class={positive}", *overrides)


def run(positive: str, *overrides: str) -> None:
    config = settings(positive, *overrides)
    fetch(config)
    split(config)


def save(image: Image.Image, path: str) -> None:
    target = Path("pets") / path
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target)


def background(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (128, 128), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)), float)
    return (blurred - blurred.mean()) * 3 + 128


def frame(scene: np.ndarray, seed: int, noise: float, defect: bool) -> Image.Image:
    """A frame of a fixed camera, with sensor noise, and perhaps a small bright defect."""
    generator = np.random.default_rng(seed)
    pixels = scene.copy()
    if defect:
        x, y = generator.integers(20, 108, 2)
        pixels[y - 3 : y + 3, x - 3 : x + 3] = 250
    pixels += generator.normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("noise", [1, 3, 6])
def test_a_fixed_camera_trains(empty_project: Path, noise: float, capsys: pytest.CaptureFixture):
    for index in range(30):
        save(frame(background(0), index, noise, True), f"defect/{index:02}.png")
        save(frame(background(0), 100 + index, noise, False), f"fine/{index:02}.png")
    run("defect")
    rows = read_manifest()
    assert len(rows) == 60
    for label in ("defect", "fine"):
        assert 4 <= sum(row.split == "test" and row.label == label for row in rows) <= 8
    assert "60 images have their background in common" in capsys.readouterr().out


def test_lamps_of_two_colours_train(empty_project: Path):
    for index in range(30):
        for label, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30))):
            generator = np.random.default_rng(index)
            pixels = np.stack([background(0)] * 3, axis=-1)
            pixels[50:70, 50:70] = colour
            pixels += generator.normal(0, 2, pixels.shape)
            save(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), f"{label}/{index:02}.png")
    run("red")
    assert len(read_manifest()) == 60


def test_a_background_for_each_class_trains(empty_project: Path):
    for number, label in enumerate(("day", "night")):
        for index in range(30):
            image = frame(background(number), 100 * number + index, 3, True)
            save(image, f"{label}/{index:02}.png")
    run("day")
    rows = read_manifest()
    assert len(rows) == 60
    for label in ("day", "night"):
        assert 4 <= sum(row.split == "test" and row.label == label for row in rows) <= 8


def test_plain_images_are_no_near_duplicates(empty_project: Path):
    generator = np.random.default_rng(0)
    for number, label in enumerate(("cat", "dog")):
        for index in range(30):
            pixels = generator.integers(0, 255, (40, 40), dtype=np.uint8)
            save(Image.fromarray(pixels), f"{label}/{index:02}.png")
        for index in range(3):
            for value in (0, 255):
                shape = 40, 41 + 10 * number + index
                save(
                    Image.fromarray(np.full(shape, value, np.uint8)), f"{label}/{value}-{index}.png"
                )
    run("cat", "split.duplicate_distance=288")
    plain = [row for row in read_manifest() if not row.perceptual_hash]
    assert len(plain) == 12


def test_two_images_of_a_scene_with_and_without_an_object_are_no_contradiction(
    empty_project: Path, capsys: pytest.CaptureFixture
):
    """A camera trap: too few images of each camera to see what they have in common."""
    for camera in range(12):
        for label, seen in (("deer", True), ("empty", False)):
            image = frame(background(camera), camera + 50 * seen, 3, seen)
            save(image, f"{label}/{camera:02}.png")
    run("deer")
    assert len(read_manifest()) == 24
    assert (
        "In 12 pairs of similar images, the two images have different classes"
        in capsys.readouterr().out
    )


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(content)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "quality 80": lambda image: jpeg(image, 80),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
}


def pairs_of(images: list[Image.Image], folder: Path) -> list[Pair]:
    folder.mkdir(exist_ok=True)
    files = []
    for index, image in enumerate(images):
        files.append(folder / f"{index:04}.png")
        image.save(files[-1])
    prints = [fingerprint(path) for path in files]
    pairs, _ = find_pairs(
        [file.sha256 for file in prints], [file.perceptual_hash for file in prints],
        [""] * len(files), 58, lambda index: decode(files[index], CLOSE_VIEW),
    )  # fmt: skip
    return pairs


def test_every_copy_of_a_phantom_is_found_and_no_other(tmp_path: Path):
    originals = [Image.fromarray(phantom((5, i), i % 2 == 0, (160, 160))) for i in range(40)]
    images = originals + [change(image) for change in COPIES.values() for image in originals]
    found = {(pair.first, pair.second) for pair in pairs_of(images, tmp_path / "images")}
    assert {(i, 40 * k + i) for i in range(40) for k in (1, 2, 3)} <= found
    assert all(first % 40 == second % 40 for first, second in found)


def test_copies_in_the_images_of_a_fixed_camera_are_found(tmp_path: Path):
    frames = [frame(background(0), index, 6, index % 2 == 0) for index in range(60)]
    copies = [jpeg(frames[index], 80) for index in range(6)]
    found = pairs_of(frames + copies, tmp_path / "images")
    assert {(pair.first, pair.second) for pair in found} == {(i, 60 + i) for i in range(6)}


def test_thousands_of_equal_images_need_little_memory(monkeypatch: pytest.MonkeyPatch):
    """All pairs of 3000 images would be 4.5 million."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    noise = generator.integers(0, 9, (3000, 64, 64, 1), dtype=np.uint8)
    first, second = near_duplicates._near(["0" * 143 + "1"] * 3000, 58)
    assert len(first) == len(second) <= 20 * 3000
    pairs, scenes = find_pairs(
        [str(i) for i in range(3000)], ["0" * 143 + "1"] * 3000, [""] * 3000, 58,
        lambda index: np.clip(image.astype(int) + noise[index], 0, 255).astype(np.uint8),
    )  # fmt: skip
    assert [len(scene) for scene in scenes] == [3000]
    assert pairs == []


def test_the_search_can_be_switched_off(empty_project: Path):
    for index in range(10):
        for label in ("cat", "dog"):
            seed = index + (50 if label == "dog" else 0)
            image = Image.fromarray(phantom((6, seed), False, (96, 96)))
            save(image, f"{label}/{index}.png")
            jpeg(image, 80).save(f"pets/{label}/copy{index}.jpg")
    run("cat")
    assert paths.DUPLICATES.read_text().count("near duplicate") == 20
    run("cat", "split.duplicate_distance=null")
    assert paths.DUPLICATES.read_text().count("near duplicate") == 0
