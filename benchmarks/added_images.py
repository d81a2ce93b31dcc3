"""Measures how many images change their split when a dataset grows.

    python benchmarks/added_images.py

500 images in equal classes get 20% more, five times, in 100 trials with random digests. Writes
benchmarks/added_images.md.
"""

import hashlib
from pathlib import Path

from image_classifier.config.compose import config_of
from image_classifier.config.schema import Split
from image_classifier.data.splitting import Item, assign

IMAGES, STEPS, TRIALS = 500, 5, 100


def moved(classes: int, trial: int, split: Split) -> tuple[int, int]:
    """Return how many times an image moved in one trial, and the number of images at its end."""
    items: list[Item] = []
    known: dict[str, str] = {}
    moves, added = 0, IMAGES // classes
    for step in range(STEPS + 1):
        for index in range(classes * added):
            name = f"{trial} {step} {index}"
            digest = hashlib.sha256(name.encode()).hexdigest()
            items.append(Item(f"class {index % classes}", "", "", digest, name, len(items)))
        splits, _ = assign(items, split, ())
        names = zip(items, splits, strict=True)
        now: dict[str, str] = {item.digest: name for item, name in names}
        moves += sum(now[digest] != name for digest, name in known.items())
        known, added = now, round(len(items) / classes / 5)
    return moves, len(items)


def main() -> None:
    """Measure, and write the page."""
    split = config_of().split
    lines = [
        "# Images that change their split when a dataset grows",
        "",
        f"Written by `python benchmarks/added_images.py`: {IMAGES} images in equal classes grow by "
        f"20%, {STEPS} times; {TRIALS} trials.",
        "",
        "| classes | trials in which no image moved | images moved, mean | images at the end |",
        "|---|---|---|---|",
    ]
    for classes in (1, 2, 3, 5, 10):
        results = [moved(classes, trial, split) for trial in range(TRIALS)]
        moves = [number for number, _ in results]
        lines.append(
            f"| {classes} | {moves.count(0)} | {sum(moves) / TRIALS:.2f} | {results[0][1]} |"
        )
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
