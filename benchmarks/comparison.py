"""Measures two sides alternately, and writes the table of all comparisons."""

import csv
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: The names of the two sides, `first ÷ second`.
        first: The median of the first side.
        second: The median of the second side.
        unit: The unit of both medians.
        ratio: The median of first ÷ second over the rounds.
        target: What the ratio should be.
    """

    what: str
    first: float
    second: float
    unit: str
    ratio: float
    target: str


def compare(what: str, rounds: Sequence[Sequence[float]], unit: str, target: str) -> Row:
    """Return the row for rounds with two values each, of the first and of the second side.

    Each round has its own ratio: when the machine is busy for a while, it slows both sides of a
    round.
    """
    first, second = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    return Row(what, first, second, unit, ratio, target)


def in_turn(repeats: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in the order A B A B …; return the rounds.

    The first round warms up, and is not among the `repeats` rounds that are returned.
    """
    for side in sides:
        side()
    return [[side() for side in sides] for _ in range(repeats)]


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write(rows: Sequence[Row], images: str, folder: Path) -> str:
    """Write results.md and results.csv to a folder; return the Markdown text."""
    machine = f"{os.cpu_count()} CPU cores ({processor()}), TensorFlow {tf.__version__}"
    lines = [
        f"{images}; {machine}.",
        "",
        "| first ÷ second | first | second | unit | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        # infinity: a training never reached the accuracy
        values = [
            f"{value:.4g}" if math.isfinite(value) else "not reached"
            for value in (row.first, row.second)
        ]
        values += [row.unit, f"{row.ratio:.2f}"]
        lines.append("| " + " | ".join([row.what, *values, row.target]) + " |")
    text = "\n".join(lines) + "\n"
    (folder / "results.md").write_text(text)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "first", "second", "unit", "ratio", "target"])
        for row in rows:
            writer.writerow([row.what, row.first, row.second, row.unit, row.ratio, row.target])
    return text


def processor() -> str:
    """Return the name of the processor."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
