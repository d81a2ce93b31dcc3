"""Checks that the launcher of a sweep can run jobs, before anything is begun."""

import shutil
import socket
from typing import Any

from omegaconf import DictConfig, OmegaConf

from image_classifier.errors import InputError

OBJECT_STORE_BYTES = 80 * 2**20  # the jobs exchange settings and numbers only; Ray's default is 30%


def check(launcher: DictConfig) -> None:
    """Check that the cluster of a launcher is there; start Ray, whose launcher then uses it.

    Args:
        launcher: The settings `hydra.launcher`.

    Raises:
        InputError: it is not there.
    """
    name = launcher._target_.rpartition(".")[2]
    if name == "SlurmLauncher" and not shutil.which("sbatch"):
        raise InputError(
            "launch=slurm: the command sbatch was not found. Run this on a machine of the Slurm "
            "cluster, or use launch=processes, which needs no cluster."
        )
    if name == "RayLauncher":
        arguments: Any = OmegaConf.to_container(launcher.ray.init, resolve=True)
        start_ray("launch=ray", OBJECT_STORE_BYTES, **arguments)


def start_ray(option: str, object_store_bytes: int, address: str | None, **arguments: Any) -> None:
    """Connect to the Ray cluster, or start Ray on this machine.

    Args:
        option: What asks for Ray, for the messages.
        object_store_bytes: The memory for objects of a Ray that is started here.
        address: The address of the cluster; without one, Ray starts here.
        arguments: More arguments of `ray.init`.

    Raises:
        InputError: Ray is not installed or does not start, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            f"{option}: Ray is not installed: pip install -e '.[ray]' in the project's folder."
        ) from None
    if not address:
        arguments = {"object_store_memory": object_store_bytes} | arguments
    try:
        reach(address or "")  # ray.init would try for many minutes
        ray.init(address=address or None, **arguments)
    except (OSError, ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if "AF_UNIX path length" in reason:
            raise InputError(
                f"{option}: TMPDIR is too long for the sockets of Ray ({reason}). Use a short "
                f"one: TMPDIR=/tmp image-classifier …"
            ) from None
        where = f"the Ray cluster at {address}" if address else "Ray"
        raise InputError(
            f"{option}: {where} does not start or answer ({reason}). RAY_ADDRESS is the address "
            f"of a cluster; without it, Ray starts on this machine."
        ) from None


def reach(address: str) -> None:
    """Raise an OSError if nothing answers at HOST:PORT or ray://HOST:PORT; skip other addresses."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
