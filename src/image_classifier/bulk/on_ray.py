"""Classifies files on a Ray cluster: an actor on each core has the classifier."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from image_classifier.bulk import sources
from image_classifier.bulk.rows import table_of
from image_classifier.classifier import Classifier

AT_ONCE = 1000  # parts whose file names are in Ray's memory: a million files


class PartClassifier:
    """An actor that classifies parts."""

    def __init__(self, files: ray.ObjectRef, threshold: float | None) -> None:
        """Load the classifier from the content of its files, which Ray has."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in ray.get(files).items():
                (Path(folder) / name).write_bytes(content)
            self.classifier = Classifier.load(Path(folder))
        self.threshold = threshold

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return the number of a part, and the table of its rows."""
        results = self.classifier.outputs_of_files(
            part["files"], sources.read, self.classifier.remembers
        )
        table = table_of(self.classifier, list(results), self.threshold)
        return {"number": part["number"], "table": serialized(table)}


def classify(
    parts: Iterable[tuple[int, list[str]]], folder: dict[str, bytes], threshold: float | None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and the table of each part, in the order in which they are finished.

    Args:
        parts: The number of each part, and the names of its files: addresses, or paths that are
            the same on every machine of the cluster.
        folder: The content of each file that `Classifier.load` reads.
        threshold: Instead of the classifier's own, 0 to 1.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    cores = int(ray.cluster_resources()["CPU"])
    stored = ray.put(folder)
    parts = iter(parts)
    while rows := [{"number": number, "files": files} for number, files in islice(parts, AT_ONCE)]:
        finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            PartClassifier,
            fn_constructor_args=(stored, threshold),
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(cores, len(rows))),
        )
        for row in finished.iter_rows():
            yield int(row["number"]), pa.ipc.open_stream(row["table"]).read_all()


def serialized(table: pa.Table) -> bytes:
    """Return a table as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())
