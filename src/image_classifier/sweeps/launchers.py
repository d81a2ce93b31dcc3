"""Checks that the launcher of a sweep can run jobs, before anything is begun."""

import shutil
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
        start_ray(launcher.ray.init)


def start_ray(settings: DictConfig) -> None:
    """Connect to the Ray cluster, or start Ray on this machine.

    Args:
        settings: The arguments of `ray.init`.

    Raises:
        InputError: Ray does not start, or the cluster does not answer.
    """
    import ray

    arguments: Any = OmegaConf.to_container(settings, resolve=True)
    if not settings.address:
        arguments = {"object_store_memory": OBJECT_STORE_BYTES} | arguments
    try:
        ray.init(**arguments)
    except (OSError, ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if "AF_UNIX path length" in reason:
            raise InputError(
                f"launch=ray: TMPDIR is too long for the sockets of Ray ({reason}). Use a short "
                f"one: TMPDIR=/tmp image-classifier train --multirun …"
            ) from None
        where = f"the Ray cluster at {settings.address}" if settings.address else "Ray"
        raise InputError(
            f"launch=ray: {where} does not start or answer ({reason}). RAY_ADDRESS is the address "
            f"of a cluster; without it, Ray starts on this machine."
        ) from None
