"""Classifies files on a Ray cluster: each core has an actor with the classifier."""

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import tensorflow as tf

from image_classifier.bulk import sources
from image_classifier.bulk.rows import table_of
from image_classifier.classifier import Classifier
from image_classifier.errors import InputError

THREADS = 4  # of an actor, which has one core: some wait for files
AT_ONCE = 1000  # parts whose names of files are in Ray's memory: a million files


class PartClassifier:
    """An actor that classifies parts."""

    def __init__(
        self,
        files: ray.ObjectRef,
        threshold: float | None,
        folder: str,
        places: Sequence[str],
    ) -> None:
        """Load the classifier; see `classify`.

        Raises:
            InputError: this machine does not have the folders.
        """
        # files would count as deleted where their folder is not mounted
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder.")
        os.chdir(folder)
        tf.config.threading.set_intra_op_parallelism_threads(1)  # the answers stay the same
        sources.check(places)
        with tempfile.TemporaryDirectory() as loaded:
            for name, content in ray.get(files).items():
                (Path(loaded) / name).write_bytes(content)
            self.classifier = Classifier.load(Path(loaded))
        self.threshold = threshold

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return the number of a part, and the table of its rows."""
        results = self.classifier.outputs_of_files(
            part["files"], sources.read, self.classifier.remembers, THREADS
        )
        table = table_of(self.classifier, list(results), self.threshold)
        return {"number": part["number"], "table": _serialized(table)}


def classify(
    parts: Iterable[tuple[int, list[str]]],
    files: dict[str, bytes],
    threshold: float | None,
    places: Sequence[str],
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and the table of each part, in the order in which they are finished.

    Args:
        parts: The number of each part, and the names of its files. Every machine of the cluster
            has this working folder, and sees the same files.
        files: The content of each file that `Classifier.load` reads.
        threshold: Instead of the classifier's own, 0 to 1.
        places: The files and folders of which the parts are.

    Raises:
        InputError: a machine of the cluster cannot classify.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cores = int(ray.cluster_resources()["CPU"])
    arguments = (ray.put(files), threshold, str(Path.cwd()), places)
    parts = iter(parts)
    try:
        while rows := [
            {"number": number, "files": names} for number, names in islice(parts, AT_ONCE)
        ]:
            finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                PartClassifier,
                fn_constructor_args=arguments,
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(cores, len(rows))),
            )
            for row in finished.iter_rows():
                yield int(row["number"]), pa.ipc.open_stream(row["table"]).read_all()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"Ray: {reason} Every machine of the cluster needs this working folder, the images and "
            f"this package at the same paths. What is classified is kept: repeat the command."
        ) from error


def _serialized(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())
