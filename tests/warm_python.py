"""Runs Python commands in processes that need not import TensorFlow and MLflow: forks of this one.

It imports nothing of the project. Its argument is the number of a listening socket, to which
`bin/python` sends the words of a command, its folder, its environment and its open files. The
answer is the exit code. It ends when its input does.
"""

import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

LARGE = [
    "cv2", "git", "hydra", "matplotlib.pyplot", "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store", "optuna", "pydantic", "scipy.stats",
    "sklearn.linear_model", "sklearn.metrics", "sklearn.model_selection", "sklearn.neighbors",
    "tensorflow",
]  # fmt: skip


def wait_for_commands(listener: socket.socket) -> SimpleNamespace | None:
    """Fork for every command; return the command in the fork, and None at the end."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([listener, sys.stdin, *running], [], [])
        if sys.stdin in ready:
            return None
        for process in running.keys() & ready:
            pid, client = running.pop(process)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.close(process)
            with client, suppress(BrokenPipeError):  # the client was killed
                client.sendall(str(code).encode())
        if listener in ready:
            client, _ = listener.accept()
            pid = os.fork()
            if pid == 0:
                return received(client)
            running[os.pidfd_open(pid)] = (pid, client)


def received(client: socket.socket) -> SimpleNamespace:
    """Return the command of a client."""
    _, files, _, _ = socket.recv_fds(client, len(b"command"), 3)
    with client, client.makefile() as content:
        return SimpleNamespace(**json.load(content), files=files)


def become(command: SimpleNamespace) -> None:
    """Take over the folder, the environment and the open files of a command."""
    os.chdir(command.folder)
    os.environ.clear()
    os.environ.update(command.environment)
    for target, source in enumerate(command.files):
        os.dup2(source, target)
        os.close(source)
    # as a new Python has it: the folder of this file is not in the path
    sys.path[0] = command.folder
    folders = command.environment["PYTHONPATH"].split(os.pathsep)
    sys.path[1:1] = [str(Path(folder).absolute()) for folder in folders]


def run(option: str, name: str, *arguments: str) -> None:
    """Run `python -m name …` or `python -c name …`."""
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        for module in LARGE:
            importlib.import_module(module)
        gc.freeze()  # the forks would copy all of this memory when they end
        wanted = wait_for_commands(listener)
    if wanted:
        become(wanted)
        run(*wanted.words)
