"""Full or read-only disks: fetch, split and prepare report them and keep the last outputs."""

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
    (folder / "corrections.csv").write_text("path,label,reason\n")
    (folder / "params.yaml").write_text(compose.OmegaConf.to_yaml(composed, resolve=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of forty images, after the three stages."""
    folder = tmp_path_factory.mktemp("finished")
    draw(folder / "pets/cat", 20, 1)
    draw(folder / "pets/dog", 20, 2)
    write_params(folder)
    assert run_stages(folder, *STAGES) == dict.fromkeys(STAGES, "")
    return folder


@pytest.fixture
def project(finished: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this dataset that every user may read."""
    shutil.copytree(finished, world, dirs_exist_ok=True, copy_function=shutil.copyfile)
    world.chmod(0o777)
    monkeypatch.chdir(world)
    return world


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """The project, with build/ on a file system of 3 MB."""
    if not shutil.which("mount"):
        pytest.skip("mount is not installed")
    shutil.move("build", "original")
    Path("build").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", "build"], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no permission to mount a file system")
    try:
        shutil.copytree("original", "build", dirs_exist_ok=True)
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
    """Fill the file system of build/, except for this many bytes."""
    with Path("build/filler").open("wb") as file:
        free = shutil.disk_usage("build").free
        file.write(bytes(max(0, free - leave)))


def test_a_full_disk_is_reported_in_one_line_and_the_last_outputs_remain(small_disk: Path):
    fill_disk(leave=8192)
    before = digests()
    for stage, end in run_stages(small_disk, *STAGES).items():
        assert end.startswith(f"{stage}: build/")
        assert "No space left on device. Free some space" in end
        assert "\n" not in end
    assert digests() == before


@pytest.mark.parametrize("free", [200_000, 436_000])
def test_prepare_reports_a_disk_that_fills_up_while_it_writes(small_disk: Path, free: int):
    """The array has 432 kB: the disk fills up within it, or within the picture grid after it."""
    fill_disk(leave=free)
    before = digests()
    end = run_stages(small_disk, "prepare")["prepare"]
    name = "images.npy" if free < 432_000 else "image_grid.png"
    assert end.startswith(f"prepare: build/prepare/{name}: No space left on device.")
    assert digests() == before


def test_with_enough_space_the_stages_give_the_same_outputs(small_disk: Path):
    before = digests()
    assert run_stages(small_disk, *STAGES) == dict.fromkeys(STAGES, "")
    assert digests() == before


def test_a_file_size_limit_is_reported_and_the_last_outputs_remain(project: Path):
    before = digests()
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    for stage, end in run_stages(project, *STAGES, before=limit).items():
        assert end.startswith(f"{stage}: build/")
        assert "File too large. The file size limit is reached; check `ulimit -f`." in end
    assert digests() == before


def test_a_read_only_folder_is_reported_and_the_last_outputs_remain(project: Path):
    before = digests()
    # as another user: build/ belongs to the user who runs the tests
    for stage, end in run_stages(project, *STAGES, before=as_nobody()).items():
        assert end.startswith(f"{stage}: build/")
        assert ": Permission denied. " in end
        assert end.count("Permission denied") == 1
        assert "`ls -ld`" in end
    assert digests() == before


def test_parts_of_a_file_can_be_written_in_any_order(tmp_path: Path):
    with (tmp_path / "file").open("wb") as file:
        write_at(file.fileno(), b"world", 6)
        write_at(file.fileno(), b"hello ", 0)
    assert (tmp_path / "file").read_bytes() == b"hello world"
