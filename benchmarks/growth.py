"""Measures how fetch, split and prepare grow with the number of images.

    python benchmarks/growth.py [1000 10000 100000]

Draws small synthetic phantoms, and runs each stage in a process of its own. Writes the seconds and
the peak memory to benchmarks/growth.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import joblib
from PIL import Image
from project import ROOT, Project
from tqdm import tqdm

from phantoms.drawing import phantom

SIDE = 64  # pixels
LABELS = ("COVID19", "NORMAL")
STAGES = ("fetch", "split", "prepare")


def draw(path: Path, index: int) -> None:
    """Write one phantom; every second one is of the positive class."""
    image = Image.fromarray(phantom((9, index), index % 2 == 0, (SIDE, SIDE)))
    image.save(path / LABELS[index % 2] / f"{index:06}.png")


def draw_all(folder: Path, number: int) -> None:
    """Write a number of phantoms into two class folders, as far as they do not exist."""
    for label in LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    known = sum(len(list((folder / label).iterdir())) for label in LABELS)
    with ProcessPoolExecutor() as pool:
        indices = range(known, number)
        drawn = pool.map(draw, [folder] * len(indices), indices, chunksize=500)
        list(tqdm(drawn, "Drawing", len(indices), disable=None))


def run(project: Project, stage: str) -> tuple[float, float]:
    """Run a stage; return its seconds, and the peak memory of its process in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classifier", stage],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{stage} failed.")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Measure every size, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 10_000, 100_000])
    lines = [
        "# How the stages grow with the number of images",
        "",
        f"Written by `python benchmarks/growth.py`: synthetic phantoms of {SIDE} x {SIDE} pixels, "
        f"prepared as 48 x 48 x 1, on {joblib.cpu_count()} CPU cores. Seconds, and peak memory of "
        f"the process.",
        "",
        f"| images | {' | '.join(STAGES)} |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as work:
        images = Path(work) / "images"
        project = Project(
            Path(work) / "project",
            "dataset=folder", "dataset.name=phantoms", f"dataset.path={images}",
            "dataset.positive_class=COVID19", "split.contradictions=drop",
            "image.height=48", "image.width=48", "image.channels=1",
        )  # fmt: skip
        for size in sorted(parser.parse_args().sizes):
            draw_all(images, size)
            cells = []
            for stage in STAGES:
                seconds, memory = run(project, stage)
                cells.append(f"{seconds:.1f} s, {memory:.0f} MB")
            lines.append(f"| {size:,} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    (ROOT / "benchmarks" / "growth.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
