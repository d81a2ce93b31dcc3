"""CPU, memory, disk, network and GPU during a training, as system metrics of its MLflow run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

# it reports its start and its end, and when MLflow does not answer, which the training says itself
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)


@contextmanager
def monitored(run_id: str | None) -> Iterator[None]:
    """Log system metrics to a run during the block, every ten seconds.

    MLflow's own switch needs an open run, and a training has none: it must survive MLflow.

    Args:
        run_id: The run; None: MLflow does not answer, and nothing is logged.
    """
    if run_id is None:
        yield
        return
    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
