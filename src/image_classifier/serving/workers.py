"""Several processes that answer on one port; one that ends is replaced."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

PAUSE = 10  # seconds


def keep_running(
    count: int, answer: Callable[..., None], arguments: tuple[Any, ...], on_ready: Callable[[], Any]
) -> int:
    """Keep worker processes running until a signal ends this one.

    Args:
        count: How many.
        answer: What each runs: `answer(*arguments, ready)`; it calls `ready` once it answers.
        arguments: They are pickled.
        on_ready: Called once all workers answer.

    Returns:
        The exit code: 1 if a worker could not start at the beginning.
    """
    context = multiprocessing.get_context("spawn")  # TensorFlow cannot be forked

    def start() -> tuple[BaseProcess, Any]:
        ready = context.Event()
        process = context.Process(target=_work, args=(answer, arguments, ready))
        process.start()
        return process, ready

    with tempfile.TemporaryDirectory() as folder:
        # where prometheus_client adds up the metrics of several processes
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        workers = [start() for _ in range(count)]
        try:
            for process, ready in workers:
                while not ready.wait(0.1):
                    if not process.is_alive():  # it has said why
                        return 1
            on_ready()
            while True:
                wait([process.sentinel for process, _ in workers])
                for index, (process, ready) in enumerate(workers):
                    if not process.is_alive():
                        if not ready.is_set():  # it could not load its model: not again at once
                            time.sleep(PAUSE)
                        print(
                            f"Worker {process.pid} ended ({_reason(process)}): a new one starts.",
                            file=sys.stderr,
                            flush=True,
                        )
                        workers[index] = start()
        finally:
            for process, _ in workers:
                process.terminate()  # uvicorn answers the requests that have begun
            for process, _ in workers:
                process.join()


def _reason(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _work(answer: Callable[..., None], arguments: tuple[Any, ...], ready: Any) -> None:
    """Run a worker; it ends when its parent process ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C, the parent ends the workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    answer(*arguments, ready.set)
