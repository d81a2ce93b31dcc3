"""Which process works on something, in a form that other processes can check later."""

import hashlib
import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil


def this_machine() -> str:
    """Return the machine's name and a digest that tells machines and containers apart."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # only Linux has these; containers have a namespace of their own
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
        parts.append(Path("/etc/machine-id").read_text())
    return f"{parts[0]}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"


def this_process() -> str:
    """Return the machine, the number and the start time of this process, as one text."""
    return f"{this_machine()} {os.getpid()} {_started(os.getpid())}"


def has_ended(process: str) -> bool:
    """Return whether a process, as `this_process` describes it, has ended.

    Of a process on another machine nothing is known: the result is False.
    """
    machine, number, started = process.rsplit(maxsplit=2)
    if machine != this_machine():
        return False
    try:
        return _started(int(number)) != started
    except psutil.NoSuchProcess:
        return True


def _started(number: int) -> str:
    """Return when a process started, in seconds after the machine: no clock can change that."""
    return f"{psutil.Process(number).create_time() - psutil.boot_time():.2f}"
