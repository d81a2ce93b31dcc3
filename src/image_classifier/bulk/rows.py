"""The predictions for files as rows: of CSV, or of a Parquet file."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from image_classifier.classifier import Classifier, Outputs
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.serving.prediction import Prediction, predictions

Result = tuple[Any, Outputs | UnreadableImage, str]  # what `Classifier.outputs_of_files` yields
Predicted = tuple[Any, Prediction | UnreadableImage]


def predicted(
    classifier: Classifier, results: Sequence[Result], threshold: float | None
) -> Iterator[Predicted]:
    """Yield each file with its prediction, or why it is unreadable.

    Args:
        classifier: The classifier that gave the results.
        results: What `Classifier.outputs_of_files` yielded for the files.
        threshold: Instead of the classifier's own, 0 to 1.
    """
    read = [outputs for _, outputs, _ in results if isinstance(outputs, Outputs)]
    seen = [seen for _, outputs, seen in results if isinstance(outputs, Outputs)]
    found: Iterable[Prediction] = ()
    if read:
        outputs = Outputs(*map(np.concatenate, zip(*read, strict=True)))
        found = predictions(classifier, outputs, threshold, seen if classifier.remembers else None)
    rest = iter(found)
    for name, result, _ in results:
        yield name, result if isinstance(result, UnreadableImage) else next(rest)


def schema_of(classifier: Classifier) -> pa.Schema:
    """Return the columns of the results.

    `path`; `label`; the probability of each class, as `p_CLASS`; `plausible`, `unusual` and `seen`
    as in `Prediction`; and `error`, why the file is unreadable, empty for an image.
    """
    probabilities = [(f"p_{name}", pa.float64()) for name in classifier.metadata.classes]
    seen = [("seen", pa.string())] if classifier.remembers else []
    return pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            *probabilities,
            ("plausible", pa.list_(pa.string())),
            ("unusual", pa.float64()),
            *seen,
            ("error", pa.string()),
        ]
    )


def row_of(name: object, prediction: Prediction | UnreadableImage) -> dict[str, Any]:
    """Return the row of a file; the columns that are missing are empty."""
    if isinstance(prediction, UnreadableImage):
        return {"path": str(name), "error": str(prediction)}
    probabilities = {f"p_{key}": value for key, value in prediction["probabilities"].items()}
    seen = {"seen": prediction["seen"]} if "seen" in prediction else {}
    return {
        "path": str(name),
        "label": prediction["label"],
        **probabilities,
        "plausible": prediction["plausible"],
        "unusual": prediction["unusual"],
        **seen,
    }


def csv_values(row: dict[str, Any]) -> list[object]:
    """Return the values of a row for CSV: plausible classes are separated by `|`."""
    return ["|".join(value) if isinstance(value, list) else value for value in row.values()]


def table_of(
    classifier: Classifier, results: Sequence[Result], threshold: float | None
) -> pa.Table:
    """Return the rows of files as a table; see `predicted`."""
    rows = [row_of(*one) for one in predicted(classifier, results, threshold)]
    return pa.Table.from_pylist(rows, schema_of(classifier))
