"""One GPU for each process. A list of numbers replaces real GPUs."""

import subprocess
import sys

from image_classifier.sweeps.claim_gpu import VARIABLE

CODE = (
    "import os, sys; from image_classifier.sweeps.claim_gpu import claim_gpu; claim_gpu(); "
    "claim_gpu(); print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
)


def start(gpus: str, tmp_path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={"CUDA_VISIBLE_DEVICES": gpus, VARIABLE: "1", "TMPDIR": str(tmp_path)},
    )  # fmt: skip


def test_each_process_has_a_gpu_of_its_own_until_it_ends(tmp_path):
    first, second = start("3,5", tmp_path), start("3,5", tmp_path)
    assert {first.stdout.readline().strip(), second.stdout.readline().strip()} == {"3", "5"}
    third = start("3,5", tmp_path)
    assert "no GPU is free (found: 3, 5)" in third.communicate()[1]
    first.communicate()
    fourth = start("3,5", tmp_path)
    assert fourth.stdout.readline().strip() in ("3", "5")
    second.communicate()
    fourth.communicate()
