"""The package draws the embedded dataset, and only the lungs separate its classes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phantoms import dataset, drawing

DATA = Path(__file__).parents[1] / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training and two test images for each class, with the default seed."""
    folder = tmp_path_factory.mktemp("small")
    dataset.write_dataset(folder, 10, 2, seed=0)
    return folder


def test_two_runs_write_the_same_bytes(small: Path, tmp_path: Path) -> None:
    dataset.main([str(tmp_path), "--train", "10", "--test", "2"])
    assert contents(tmp_path) == contents(small)


def test_a_larger_set_begins_with_the_smaller_one(small: Path, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path, 2, 1, seed=0)
    smaller, larger = contents(tmp_path), contents(small)
    assert len(smaller) == 6
    assert smaller.items() <= larger.items()


def test_another_seed_draws_other_images(small: Path, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path, 1, 1, seed=1)
    name = "train/NORMAL/phantom-000.jpg"
    assert contents(tmp_path)[name] != contents(small)[name]


def test_no_two_images_are_equal(small: Path) -> None:
    written = contents(small)
    assert len(set(written.values())) == len(written) == 24


def test_embedded_files_are_what_the_module_writes(small: Path) -> None:
    for name, written in contents(small).items():
        embedded = DATA / name
        if written.startswith(b"\x89PNG"):
            # The bytes of a PNG depend on the zlib that Pillow was built with, its pixels do not.
            with Image.open(embedded) as ours, Image.open(small / name) as theirs:
                assert (ours.format, ours.mode) == (theirs.format, theirs.mode)
                assert ours.convert("RGB").tobytes() == theirs.convert("RGB").tobytes(), name
        else:
            assert embedded.read_bytes() == written, name


def test_embedded_set_is_complete_and_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 4_000_000
    for split, number in (("train", 100), ("test", 40)):
        for name in dataset.CLASSES:
            assert len(list((DATA / split / name).iterdir())) == number


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_both_classes_have_the_same_kinds_of_files(split: str) -> None:
    kinds: dict[str, Counter[tuple[str, str | None, str]]] = {}
    for name in dataset.CLASSES:
        kinds[name] = Counter()
        for path in (DATA / split / name).iterdir():
            with Image.open(path) as picture:
                kinds[name][path.suffix, picture.format, picture.mode] += 1
    covid, normal = (kinds[name] for name in dataset.CLASSES)
    assert covid == normal
    assert set(covid) == {
        (".jpg", "JPEG", "L"),
        (".jpg", "JPEG", "RGB"),
        (".jpg", "PNG", "L"),
        (".png", "PNG", "RGBA"),
        (".png", "PNG", "P"),
    }


def test_phantom_is_a_grey_image_of_the_given_size() -> None:
    picture = drawing.phantom((0, 1), opacities=True, size=(120, 150))
    assert picture.shape == (120, 150)
    assert picture.dtype == np.uint8
    assert picture.std() > 20


def test_moving_an_opacity_changes_only_what_is_around_it() -> None:
    size, left, right = (200, 200), (0.3, 0.5), (0.7, 0.5)
    clear = drawing.phantom((0, 7), opacities=False, size=size).astype(int)
    row, column = np.indices(size) / 200
    for centre, elsewhere in ((left, right), (right, left)):
        hazy = drawing.phantom((0, 7), opacities=True, size=size, centres=[centre])
        change = np.abs(hazy - clear)
        away = np.hypot(column - centre[0], row - centre[1]) > 0.4
        assert change[away].max() == 0
        other_half = change[:, 100:] if centre == left else change[:, :100]
        assert other_half.sum() < 0.1 * change.sum()
        # The centre of the change is at the opacity, so a heat map can be compared with it.
        middle = np.array([(column * change).sum(), (row * change).sum()]) / change.sum()
        assert np.hypot(*(middle - centre)) < 0.08 < np.hypot(*(middle - elsewhere))


def test_opacities_are_inside_the_lungs() -> None:
    for number in range(10):
        clear = drawing.phantom((3, number), opacities=False, size=(100, 100))
        hazy = drawing.phantom((3, number), opacities=True, size=(100, 100))
        changed = clear != hazy
        assert changed.any()
        changed[10:-10, 10:-10] = False
        assert not changed.any()


def test_refuses_a_folder_that_is_not_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("keep me")
    with pytest.raises(SystemExit) as end:
        dataset.main([str(tmp_path), "--train", "1", "--test", "1"])
    assert end.value.code == 2
    assert "is not empty" in capsys.readouterr().err
    assert list(contents(tmp_path)) == ["test/mine.txt"]


def test_refuses_a_negative_number(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        dataset.main([str(tmp_path), "--train", "-1"])
    assert end.value.code == 2
    assert not contents(tmp_path)
