"""Gives each process of a sweep a GPU of its own, before TensorFlow is imported."""

import os
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

VARIABLE = "IMAGE_CLASSIFIER_ONE_GPU_PER_JOB"  # set by conf/launch/gpus.yaml
CLAIMED: list[FileLock] = []  # held until this process ends


def claim_gpu() -> None:
    """Claim a GPU that no other process of this machine has, if the launcher asks for it.

    Raises:
        RuntimeError: no GPU is free.
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
        f"no GPU is free (found: {', '.join(numbers) or 'none'}). Set hydra.launcher.n_jobs to the "
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
