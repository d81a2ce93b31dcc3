"""train: fits the CNN, keeps its best epoch, and registers that in MLflow.

    python -m image_classifier.train model=compact                       one run of conf/
    python -m image_classifier.train --multirun model=article,compact    a sweep

The images must be prepared (`dvc repro prepare`). The DVC stage runs this on params.yaml instead
of conf/, with build/train as Hydra's run folder: see dvc.yaml. The training itself is in
training.py.
"""

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from image_classifier import config as configuration
from image_classifier import sweep
from image_classifier.config import CONF, Config
from image_classifier.dataset import load_prepared


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float:
    """Train with what Hydra composed; in a sweep, a failure is returned as NaN, not raised."""
    config = configuration.from_hydra(composed)
    dataset = load_prepared(config)
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    try:
        # TensorFlow and MLflow take seconds to import: --help and bad input do without
        from image_classifier.training import train

        return train(config, dataset, Path(job.runtime.output_dir), run_name(config), overrides)
    except Exception:
        if job.mode != RunMode.MULTIRUN:
            raise
        # the other jobs go on; the job's MLflow run is marked as failed
        logging.getLogger(__name__).exception("Failed: %s", " ".join(overrides))
        return float("nan")


def run_name(config: Config) -> str:
    """Return a short name: the model, and how its training differs from what conf/ has for it."""
    model = config.model.name
    files = {"augmentation": "article", "model": model, "optimizer": model, "training": model}
    changes = [
        f"{'lr' if key == 'learning_rate' else key}={value}"
        for section, file in files.items()
        for key, value in getattr(config, section).model_dump().items()
        if value != OmegaConf.load(CONF / section / f"{file}.yaml")[key]
    ]
    return " ".join([model, *changes, os.environ.get("DVC_EXP_NAME", "")]).strip()


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    try:
        run()
    except configuration.COMPOSITION_ERRORS as problem:
        sweep.abandon()
        sys.exit(f"train: {configuration.explain(problem)}")
