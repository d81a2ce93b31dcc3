"""Gives each process of a sweep a GPU of its own, before TensorFlow loads."""

import os
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

VARIABLE = "IMAGE_CLASSIFIER_ONE_GPU_PER_JOB"  # set by conf/launch/gpus.yaml
CLAIMED: list[FileLock] = []  # held until this process ends


def claim_gpu() -> None:
    """Take a GPU that no other process of this machine has taken, where the launcher asks for it.

    Raises:
        RuntimeError: there is no free one.
    """
    if not os.environ.get(VARIABLE) or CLAIMED:
        return
    numbers = gpus()
    for number in numbers:
        lock = FileLock(Path(tempfile.gettempdir()) / f"image-classifier-gpu-{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        CLAIMED.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = number
        return
    raise RuntimeError(
        f"no free GPU among {', '.join(numbers) or 'none'}: set hydra.launcher.n_jobs to the "
        f"number of GPUs."
    )


def gpus() -> list[str]:
    """Return the numbers of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [number for number in visible.split(",") if number]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return [str(index) for index, _ in enumerate(listed.stdout.splitlines())]
