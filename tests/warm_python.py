"""Runs Python commands in processes that need not import TensorFlow and MLflow: forks of this one.

It imports nothing of the project. Each line of its input is a command: where it runs, and with
what. It answers each with the exit code. `conftest.Project.python` uses it.
"""

import gc
import importlib
import json
import os
import runpy
import sys
from types import SimpleNamespace

LARGE = [
    "cv2", "git", "hydra", "matplotlib.pyplot", "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store", "optuna", "pydantic", "scipy.stats",
    "sklearn.linear_model", "sklearn.metrics", "sklearn.model_selection", "sklearn.neighbors",
    "tensorflow",
]  # fmt: skip


def wait_for_commands() -> SimpleNamespace | None:
    """Fork for every command; return the command in the fork, and None at the end."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return SimpleNamespace(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def become(command: SimpleNamespace) -> None:
    """Take over the folder, the environment, the input and the output of a command."""
    os.chdir(command.folder)
    os.environ.clear()
    os.environ.update(command.environment)
    output = os.open(command.output, os.O_WRONLY | os.O_APPEND)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    # as a new Python has it: the folder of this file is not in the path
    sys.path[0] = command.folder
    sys.path[1:1] = command.environment["PYTHONPATH"].split(os.pathsep)


def run(option: str, name: str, *arguments: str) -> None:
    """Run `python -m name …` or `python -c name …`."""
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    for module in LARGE:
        importlib.import_module(module)
    gc.freeze()  # the forks would copy all of this memory when they end
    wanted = wait_for_commands()
    if wanted:
        become(wanted)
        run(*wanted.words)
