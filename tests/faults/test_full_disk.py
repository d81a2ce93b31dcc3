"""Disks that are full or closed: fetch, split and prepare say so in a line, and lose nothing."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import as_nobody, run_stages
from image_classifier.config import compose
from image_classifier.stages.prepare import write_at

PETS = [
    "dataset=folder", "dataset.name=pets", "dataset.path=pets", "dataset.positive_class=cat",
]  # fmt: skip
STAGES = ("fetch", "split", "prepare")


def draw(folder: Path, number: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(number):
        pixels = generator.integers(0, 255, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")


def write_params(folder: Path, *overrides: str) -> None:
    composed = compose.compose([*PETS, "image.height=60", "image.width=60", *overrides])
    (folder / "params.yaml").write_text(compose.OmegaConf.to_yaml(composed, resolve=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of forty images that went through the three stages."""
    folder = tmp_path_factory.mktemp("finished")
    draw(folder / "pets/cat", 20, 1)
    draw(folder / "pets/dog", 20, 2)
    write_params(folder)
    assert run_stages(folder, *STAGES) == dict.fromkeys(STAGES, "")
    return folder


@pytest.fixture
def project(finished: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where every user may look."""
    shutil.copytree(finished, world, dirs_exist_ok=True, copy_function=shutil.copyfile)
    world.chmod(0o777)
    monkeypatch.chdir(world)
    return world


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """The project's build/ on a file system of its own, of 3 MB."""
    if not shutil.which("mount"):
        pytest.skip("there is no mount here")
    shutil.move("build", "kept")
    Path("build").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", "build"], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("file systems may not be mounted here")
    try:
        shutil.copytree("kept", "build", dirs_exist_ok=True)
        yield project
    finally:
        subprocess.run(["umount", "build"], check=True)


def digests() -> dict[str, str]:
    """Return the SHA-256 of every file in build/, by its path."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path("build").rglob("*"))
        if path.is_file()
    }


def fill_disk(leave: int) -> None:
    """Fill the file system of build/ up to so many bytes."""
    with Path("build/filler").open("wb") as file:
        free = shutil.disk_usage("build").free
        file.write(bytes(max(0, free - leave)))


def test_a_full_disk_is_told_in_one_line_and_the_last_outputs_stay(small_disk: Path):
    fill_disk(leave=8192)
    before = digests()
    for stage, end in run_stages(small_disk, *STAGES).items():
        assert end.startswith(f"{stage}: build/")
        assert "No space left on device. Free some space" in end
        assert "\n" not in end
    assert digests() == before


@pytest.mark.parametrize("free", [200_000, 436_000])
def test_a_disk_that_fills_up_while_prepare_writes_does_not_kill_it(small_disk: Path, free: int):
    """The array is 432 kB: the disk is full in its middle, or when the picture grid follows."""
    fill_disk(leave=free)
    before = digests()
    end = run_stages(small_disk, "prepare")["prepare"]
    name = "images.npy" if free < 432_000 else "picture_grid.png"
    assert end.startswith(f"prepare: build/prepare/{name}: No space left on device.")
    assert digests() == before


def test_when_there_is_space_again_the_stages_go_through(small_disk: Path):
    before = digests()
    assert run_stages(small_disk, *STAGES) == dict.fromkeys(STAGES, "")
    assert digests() == before


def test_a_limit_on_the_size_of_files_is_told_and_the_last_outputs_stay(project: Path):
    before = digests()
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    for stage, end in run_stages(project, *STAGES, before=limit).items():
        assert end.startswith(f"{stage}: build/")
        assert "File too large. Files may not grow so large here" in end
    assert digests() == before


def test_a_folder_that_is_read_only_is_told_and_the_last_outputs_stay(project: Path):
    before = digests()  # all of it belongs to the user who runs the tests
    for stage, end in run_stages(project, *STAGES, before=as_nobody()).items():
        assert end.startswith(f"{stage}: build/")
        assert "Permission denied. You need the right" in end
    assert digests() == before


def test_parts_of_a_file_written_in_any_order_are_all_there(tmp_path: Path):
    with (tmp_path / "file").open("wb") as file:
        write_at(file.fileno(), b"world", 6)
        write_at(file.fileno(), b"hello ", 0)
    assert (tmp_path / "file").read_bytes() == b"hello world"
