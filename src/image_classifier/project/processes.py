"""Which process works on something, in a form that other processes can check later."""

import socket

import psutil


def this_process() -> str:
    """Return the machine, the number and the start time of this process, as one text."""
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def has_ended(process: str) -> bool:
    """Return whether a process, as `this_process` describes it, has ended.

    Of a process on another machine nothing is known: the result is False.
    """
    machine, number, started = process.rsplit(maxsplit=2)
    if machine != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
