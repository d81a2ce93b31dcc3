"""The ledger: how often a test set was looked at, by which versions, and by the gate.

Every version that `evaluate` measures leaves tags on its run, and so does every version about which
the gate decides. DIGEST is the beginning of the digest of the test set:

    test_set.DIGEST                the whole digest; finds the run
    evaluated.DIGEST.NAME-VERSION  when, which version, and a digest of its predictions
    decided.DIGEST.NAME-VERSION    when, and which version, for the gate's decision

Versions with the same predictions are one look: the second shows nothing new. A tag is set once,
so a repeat adds nothing, and every version has tags of its own, so processes do not overwrite each
other's. Versions of all registered models count together, also those of deleted runs. What is not
counted: runs that `mlflow gc` removed, evaluations in another store or by a release without the
ledger, looks at the images outside of the pipeline, and looks at a test set that shares images with
this one, but not all: added images give another digest, so the count begins again. A version about
which the gate decides twice, with another champion, counts once.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.entities import Run, RunTag

from image_classifier.errors import InputError
from image_classifier.tracking import connection
from image_classifier.tracking.registry import Version
from image_classifier.tracking.searches import runs_everywhere


@dataclass(frozen=True, order=True)
class Look:
    """A version that was evaluated: when, its address, a digest of its predictions, and its run.

    The digest is `-` where it is not known.
    """

    time: str
    version: str
    predictions: str
    run_id: str


@dataclass(frozen=True)
class Ledger:
    """The looks at a test set, the first one first, and the number of versions the gate judged.

    `repeats` are evaluations with the predictions of an earlier look.
    """

    digest: str
    looks: tuple[Look, ...]
    decisions: int
    repeats: tuple[Look, ...] = ()

    @property
    def evaluations(self) -> int:
        """The number of looks: of versions that were evaluated."""
        return len(self.looks)

    @property
    def first(self) -> str:
        """The day of the first look, or an empty text."""
        return self.looks[0].time[:10] if self.looks else ""

    @property
    def last(self) -> str:
        """The day of the last version's first evaluation, or an empty text."""
        return self.looks[-1].time[:10] if self.looks else ""

    @property
    def versions(self) -> list[str]:
        """The addresses of the versions, in the order of their looks."""
        return [look.version for look in self.looks]

    def look_of(self, version: Version) -> int:
        """Return which look an evaluated version was, from 1 on; later looks do not change it.

        Raises:
            InputError: the version was not evaluated on this test set.
        """
        evaluated = (version.uri, version.run_id)
        own = [
            look
            for look in (*self.looks, *self.repeats)
            if (look.version, look.run_id) == evaluated
        ]
        for number, look in enumerate(self.looks, 1):
            if own and (look == own[0] or _same(look, own[0])):
                return number
        raise InputError(
            f"{connection.public_uri()} does not know that {version.uri} was evaluated on this "
            f"test set: run `dvc repro -f -s evaluate`."
        )

    def record(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        return {
            "digest": self.digest,
            "looks": self.evaluations,
            "decisions": self.decisions,
            "first": self.first,
            "last": self.last,
        }


def mark_evaluation(version: Version, digest: str, predictions: str = "") -> Ledger:
    """Note that a version was evaluated on a test set; return the ledger with this look.

    Call it before any test metric is stored or shown: then no look is ever missing.

    Args:
        version: The version.
        digest: Of the test set; see `data.manifest.test_digest`.
        predictions: A digest of what it predicts for the test images, if that is known.
    """
    _mark(version, digest, predictions, "evaluated")
    return looks(digest)


def mark_decision(version: Version, digest: str) -> Ledger:
    """Note that the gate decides about a version, which was evaluated; return the ledger."""
    _mark(version, digest, "", "evaluated", "decided")
    return looks(digest)


def looks(digest: str) -> Ledger:
    """Return who has looked at a test set.

    Args:
        digest: See `data.manifest.test_digest`.
    """
    connection.connect()
    short = digest[:16]
    found, decided = [], 0
    for run in runs_everywhere(f"tags.`test_set.{short}` = '{digest}'"):
        found += _looks_of(run, f"evaluated.{short}.")
        decided += len(_looks_of(run, f"decided.{short}."))
    first, repeats = list[Look](), list[Look]()
    for look in sorted(found):
        (repeats if any(_same(look, other) for other in first) else first).append(look)
    return Ledger(digest, tuple(first), decided, tuple(repeats))


def _same(look: Look, other: Look) -> bool:
    return look.predictions == other.predictions != "-"


def _looks_of(run: Run, prefix: str) -> list[Look]:
    return [
        Look(time, version, predictions, run.info.run_id)
        for key, value in run.data.tags.items()
        if key.startswith(prefix)
        for time, predictions, version in [value.split(" ", 2)]
    ]


def _mark(version: Version, digest: str, predictions: str, *kinds: str) -> None:
    client, short = mlflow.MlflowClient(), digest[:16]
    present = client.get_run(version.run_id).data.tags
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    # a tag may not contain every character that the name of a model may
    name = re.sub(r"[^\w.-]", "_", version.name)[:100]
    tags = {f"test_set.{short}": digest} | {
        f"{kind}.{short}.{name}-{version.version}": f"{now} {predictions or '-'} {version.uri}"
        for kind in kinds
    }
    if new := [RunTag(key, value) for key, value in tags.items() if key not in present]:
        client.log_batch(version.run_id, tags=new)
