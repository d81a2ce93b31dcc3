"""What Prometheus reads at /metrics: requests, their time, batches, predictions."""

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from image_classifier.serving.prediction import Prediction

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter(
    "classifier_requests_total", "Requests that were answered.", ["path", "method", "status"]
)
REQUEST_SECONDS = Histogram(
    "classifier_request_seconds", "From the headers to the answer.", ["path"], buckets=SECONDS
)
BATCH_IMAGES = Histogram(
    "classifier_batch_images", "Images that were classified together.", buckets=IMAGES
)
PREDICTIONS = Counter("classifier_predictions_total", "Images by label.", ["model", "label"])
UNUSUAL = Counter(
    "classifier_unusual_images_total",
    "Images from the percentile evaluation.unusual_percentile on.",
    ["model"],
)
RELOADS = Counter(
    "classifier_reloads_total", "Looks at the registry that found another version.", ["result"]
)


def count(model: str, predictions: list[Prediction], unusual_percentile: float) -> None:
    """Count predictions of a model, given by its address."""
    for prediction in predictions:
        PREDICTIONS.labels(model, prediction["label"]).inc()
        if (prediction["unusual"] or 0) >= unusual_percentile:
            UNUSUAL.labels(model).inc()


def text() -> bytes:
    """Return all values in the text format of Prometheus; of all workers together."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # the variable is prometheus_client's own
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
