"""Signals that end a command: Ctrl-C, SIGTERM of a scheduler, SIGHUP of a closed terminal."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 5  # seconds

received: signal.Signals | None = None  # the first one


class Ended(KeyboardInterrupt):
    """A signal ended the command."""


@contextmanager
def raise_ended() -> Iterator[None]:
    """From now on, let a signal end the child processes and raise `Ended` in the main thread.

    Whatever else the block raises after a signal becomes `Ended`. After the block, a signal ends
    the process at once.

    A signal that is ignored, as under nohup, stays ignored. In a stage of DVC, the end of DVC
    counts as SIGTERM: nobody would save the stage's outputs.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    signal.signal(signal.SIGALRM, _end)
    atexit.register(_end_as_shells_expect)  # the first that is registered runs last
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_end_with_dvc, daemon=True).start()
    try:
        yield
    except BaseException:
        if received:
            raise Ended(received.name) from None
        raise
    finally:
        if not received:
            _end_at_once()


def finish() -> int:
    """Return the exit code after a signal; another signal, or a hang, ends the process at once."""
    assert received
    _end_at_once()
    return 128 + received


def _end_at_once() -> None:
    for number in (*SIGNALS, signal.SIGALRM):
        if signal.getsignal(number) == _end:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    """Raise `Ended`: once for many signals, but again if that did not end the process in time.

    Python drops exceptions in callbacks of the garbage collector, and a server may not answer.
    """
    global received
    if received and number != signal.SIGALRM:
        return
    received = received or signal.Signals(number)
    signal.alarm(AGAIN)
    sys.unraisablehook = lambda _: None  # dropped exceptions are not shown
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            # joblib's and Python's own, which deletes what the other children leave
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    raise Ended(received.name)


def _end_with_dvc() -> None:
    child = psutil.Process()
    with suppress(psutil.NoSuchProcess):  # the parent has ended
        # DVC starts a shell. bash becomes the command, but dash waits for it, as the parent.
        parent = psutil.Process(child.ppid())
        if any("-m image_classifier" in word for word in parent.cmdline()):
            child = parent
        dvc = child.ppid()
        while child.ppid() == dvc:
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_as_shells_expect() -> None:
    """End by the signal itself: a shell then also ends the loop in which the command runs."""
    if received and signal.getsignal(received) == signal.SIG_DFL:
        with suppress(OSError):  # the terminal is closed
            sys.stdout.flush()
        os.kill(os.getpid(), received)
