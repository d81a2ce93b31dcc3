"""train: trains one model, or many with --multirun, with settings that Hydra composes from conf/.

    image-classifier train model=compact                       one run
    image-classifier train --multirun model=article,compact    a sweep
    image-classifier train --stage                             the stage of `dvc repro`

The images must be prepared (`dvc repro prepare`). `--stage` trains with the settings of
params.yaml, into build/train; the stage `evaluate` then registers the model. `--hydra-help` lists
the options of Hydra.
"""

import os
import sys

from image_classifier.config.compose import load


def run(words: list[str]) -> int:
    """Run the command line; return the exit code."""
    if words == ["--stage"]:
        from image_classifier.stages.train import train

        train(load())
        return 0
    from image_classifier.sweeps import hydra_callback, job

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    sys.argv = ["image-classifier train", *words]  # Hydra reads its arguments there
    try:
        job.run()
    except BaseException as error:
        hydra_callback.abandon(error)
        raise
    return 0
