"""Repeats the predictions of a server's log, and compares the answers to the last bit."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from image_classifier.bulk import sources
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

MOST_PRINTED = 10


def replay(log: Path, places: Sequence[str], load: Callable[[str], "Classifier"]) -> int:
    """Classify the images of a log again, with the versions that answered; print what differs.

    Args:
        log: The file that `serve` has written.
        places: Where the images are: files, folders, addresses of S3.
        load: Returns the classifier of a version, given by its address.

    Returns:
        The exit code: 1 if an answer differs or an image is not found.

    Raises:
        InputError: the log, a folder or a version does not exist, or the log has no prediction.
    """
    sources.check(places)
    if not log.is_file():
        raise InputError(f"{log}: no such file.")

    from image_classifier.serving import predictions_log
    from image_classifier.serving.prediction import predictions

    records, damaged = predictions_log.read(log)
    if not records:
        raise InputError(f"{log} has no prediction.")
    names = find(places, {record.sha256 for record in records})
    found = [record for record in records if record.sha256 in names]
    same = printed = 0
    bar = tqdm(total=len(found), desc="Replaying", unit="image", disable=None)
    for model, of_model in groupby(sorted(found, key=lambda r: r.model), lambda r: r.model):
        classifier = load(model)
        for record in of_model:
            content = sources.read(names[record.sha256])
            outputs = classifier.outputs(classifier.decode(content)[None], record.alone)
            seen = [classifier.seen(content)] if classifier.remembers else None
            (answer,) = predictions(classifier, outputs, record.threshold, seen)
            bar.update()
            if answer == record.prediction:
                same += 1
            elif (printed := printed + 1) <= MOST_PRINTED:
                bar.write(f"{names[record.sha256]}, {record.time}, by {model}:")
                bar.write(f"  then {record.prediction}\n  now  {answer}")
    bar.close()
    print(
        f"{len(records)} predictions: {same} have the same answer to the last bit, "
        f"{len(found) - same} another one, {len(records) - len(found)} images were not found, "
        f"{damaged} lines are damaged."
    )
    if printed > MOST_PRINTED:
        print(f"The first {MOST_PRINTED} of the other answers are above.", file=sys.stderr)
    return 0 if same == len(records) else 1


def find(places: Sequence[str], digests: set[str]) -> dict[str, str]:
    """Return the name of a file for each SHA-256 that a file in these places has."""
    names: dict[str, str] = {}
    for name in tqdm(sources.find(places), "Searching", unit="file", disable=None):
        digest = hashlib.sha256(sources.read(name)).hexdigest()
        if digest in digests:
            names.setdefault(digest, name)
            if len(names) == len(digests):
                break
    return names
