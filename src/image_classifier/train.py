"""train: fits the CNN, keeps its best epoch, and registers that in MLflow.

    python -m image_classifier.train model=compact                       one run of conf/
    python -m image_classifier.train --multirun model=article,compact    a sweep

The images must be prepared (`dvc repro prepare`). The DVC stage runs this on params.yaml instead
of conf/, with build/train as Hydra's run folder: see dvc.yaml. The training itself is in
training/job.py.
"""

import logging
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from image_classifier import command_line, sweep_callback
from image_classifier import config as configuration
from image_classifier.config import CONF
from image_classifier.data.dataset import check_batch_size, load_prepared
from image_classifier.errors import InputError
from image_classifier.schema import Config
from image_classifier.training.claim_gpu import claim_gpu


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float:
    """Train with what Hydra composed; return the best value of `training.monitor`."""
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    if job.mode == RunMode.MULTIRUN:
        return run_job(composed, overrides, Path(job.runtime.output_dir))
    config = configuration.from_hydra(composed)
    if config.tracking.register_models != "each":
        raise InputError(
            f"tracking.register_models={config.tracking.register_models} is for sweeps: a single "
            f"run registers its model."
        )
    dataset = load_prepared(config)
    check_batch_size(config, dataset)
    # TensorFlow and MLflow take seconds to import: --help and bad input do without
    from image_classifier.training.job import train

    return train(config, dataset, Path(job.runtime.output_dir), run_name(config), overrides)


def run_job(composed: DictConfig, overrides: list[str], output: Path) -> float:
    """Train one job of a sweep, unless it is done already; a failure is returned as NaN.

    The other jobs go on then, and the error is on the job's MLflow run.
    """
    from image_classifier.tracking import connection, sweeps

    try:
        config = configuration.from_hydra(composed)
        dataset = load_prepared(config)
        check_batch_size(config, dataset)
        value = connection.attempt(partial(sweeps.finished_value, config, dataset))
        if value is not None:
            print(f"Finished before: {' '.join(overrides)}")
            return value
        claim_gpu()
        from image_classifier.training.job import train

        value = train(config, dataset, output, run_name(config), overrides)
        connection.attempt(partial(sweeps.update_leader, config.training.monitor))
        return value
    except Exception as error:
        expected = isinstance(error, InputError)  # says all there is to say
        logging.getLogger(__name__).error(
            "Failed: %s: %s", " ".join(overrides), error, exc_info=not expected
        )
        with suppress(Exception):  # where MLflow is gone, the log has it
            sweeps.record_failure(overrides, error)
        return float("nan")


def run_name(config: Config) -> str:
    """Return a short name: the model, and how its training differs from what conf/ has for it."""
    model = config.model.name
    files = {"augmentation": "article", "model": model, "optimizer": model, "training": model}
    changes = [
        f"{'lr' if key == 'learning_rate' else key}={value}"
        for section, file in files.items()
        for key, value in getattr(config, section).model_dump().items()
        # a file that builds on another does not have every key itself
        if value != OmegaConf.load(CONF / section / f"{file}.yaml").get(key, value)
    ]
    return " ".join([model, *changes, os.environ.get("DVC_EXP_NAME", "")]).strip()


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    try:
        run()
    except configuration.COMPOSITION_ERRORS as problem:
        sweep_callback.abandon()
        sys.exit(f"train: {configuration.explain(problem)}")
    except OSError as problem:
        sweep_callback.abandon()
        sys.exit(f"train: {command_line.explain(problem)}")
    except BaseException:
        sweep_callback.abandon()
        raise
