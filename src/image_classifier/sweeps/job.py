"""One training that Hydra started: a single run, or a job of a sweep.

The test images play no part here. The threshold is chosen on the validation images and the model
is registered, as `evaluate` does it in the pipeline.
"""

import gc
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from image_classifier.config.compose import CONF, typed
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.errors import InputError
from image_classifier.evaluation.doubt import check_unknown
from image_classifier.evaluation.metrics import headline
from image_classifier.evaluation.predictions import write_predictions
from image_classifier.evaluation.threshold import choose_threshold
from image_classifier.project import paths
from image_classifier.stages.train import (
    Trained,
    check,
    resolve_start,
    train_model,
    upload_can_be_repeated,
)
from image_classifier.sweeps.claim_gpu import claim_gpu
from image_classifier.training import identity, resume

if TYPE_CHECKING:
    import keras

    from image_classifier.tracking.start_from import Start


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> float:
    """Train with what Hydra composed; return the best value of `training.monitor`."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    output = Path(hydra_config.runtime.output_dir)
    os.chdir(hydra_config.runtime.cwd)  # hydra.job.chdir=true leaves the project's folder
    if hydra_config.mode == RunMode.MULTIRUN:
        return sweep_job(composed, overrides, output)
    config = typed(composed)
    if config.tracking.register_models != "each":
        raise InputError(
            f"tracking.register_models={config.tracking.register_models} is for sweeps: a single "
            f"run registers its model."
        )
    dataset = load_prepared(config)
    check_unknown(dataset.classes, config)
    check(config, dataset)
    config, start = resolve_start(config, dataset)
    with resume.claim(config, dataset, start.weights_sha256 if start else "") as state:
        return train_and_register(config, dataset, output, state, overrides, start=start)


def sweep_job(composed: DictConfig, overrides: list[str], output: Path) -> float:
    """Train one job of a sweep, unless it is finished already.

    When it fails, its error is on its MLflow run, and NaN is returned: the other jobs continue.
    """
    from image_classifier.sweeps import parent_run  # imports MLflow
    from image_classifier.tracking import connection

    try:
        config = typed(composed)
        dataset = load_prepared(config)
        check_unknown(dataset.classes, config)
        check(config, dataset)
        monitor = config.training.monitor
        config, start = resolve_start(config, dataset)
        start_sha256 = start.weights_sha256 if start else ""
        key = identity.job_key(config, dataset, start_sha256)
        finished = partial(finished_already, key, config, overrides)
        value = connection.log_or_continue(finished)
        if value is None:
            claim_gpu()  # before TensorFlow is imported
            import keras  # noqa: F401

            if not gc.get_freeze_count():
                # Keras collects garbage before each job; to search all modules takes half a second
                gc.freeze()
            with resume.claim(config, dataset, start_sha256) as state:
                # while this job waited, another one may have trained the same
                value = connection.log_or_continue(finished)
                if value is None:
                    stoppers = stoppers_of_sweep(config)
                    value = train_and_register(
                        config, dataset, output, state, overrides, stoppers, start
                    )
                    connection.log_or_continue(partial(parent_run.update_leader, monitor))
        return value
    except Exception as error:
        expected = isinstance(error, InputError)  # its text is enough
        logging.getLogger(__name__).error(
            "Failed: %s: %s", " ".join(overrides), error, exc_info=not expected
        )
        with suppress(Exception):  # if MLflow fails, the log still has the error
            parent_run.record_failure(overrides, error)
        return nan


def finished_already(key: str, config: Config, overrides: Sequence[str]) -> float | None:
    """Return the result of a job that this sweep, or another training, has finished; or None."""
    from image_classifier.sweeps import parent_run

    monitor, words = config.training.monitor, " ".join(overrides)
    value = parent_run.finished_value(key, monitor)
    if value is not None:
        print(f"Finished already, skipped: {words}")
        return value
    found = parent_run.reuse(key, monitor, overrides, config.tracking)
    if found is None:
        return None
    run_id, value = found
    print(f"Finished already in MLflow run {run_id}, skipped: {words}")
    return value


def stoppers_of_sweep(config: Config) -> list["keras.callbacks.Callback"]:
    """Return the callbacks that stop a job which is worse than others."""
    from image_classifier.sweeps import parent_run
    from image_classifier.sweeps.median_stopping import MedianStopping
    from image_classifier.sweeps.pruning import Pruning
    from image_classifier.sweeps.study import trial_of_this_job
    from image_classifier.tracking import connection

    monitor, stoppers = config.training.monitor, list["keras.callbacks.Callback"]()
    if config.training.stop_below_median:
        best_so_far = partial(parent_run.best_so_far_curves, monitor)
        curves = connection.log_or_continue(best_so_far) or []
        stoppers.append(MedianStopping(curves, monitor))
    if trial := trial_of_this_job(monitor, HydraConfig.get().sweeper):
        stoppers.append(Pruning(trial, monitor))
    return stoppers


def train_and_register(
    config: Config,
    dataset: PreparedDataset,
    output: Path,
    state: resume.ResumeState,
    overrides: Sequence[str],
    stoppers: Sequence["keras.callbacks.Callback"] = (),
    start: "Start | None" = None,
) -> float:
    """Train one model, choose its threshold, and register it; return its monitored value.

    For the arguments see `stages.train.train_model`.
    """
    from image_classifier.tracking import runs

    trained = train_model(config, dataset, output, state, overrides, stoppers, start)
    with upload_can_be_repeated(state), runs.open_run(trained.run_id):
        if trained.progress.stopped_from_outside:
            runs.log_tags({runs.PRUNED: trained.progress.epochs})
            outcome = "not stored, because other jobs are better"
        else:
            outcome = register(config, dataset, output / paths.MODEL, trained)
    state.finish()
    print(f"MLflow run {trained.run_id}, {outcome}.")
    return trained.value


def register(config: Config, dataset: PreparedDataset, folder: Path, trained: Trained) -> str:
    """Choose the threshold and register the model; return what was done, in words.

    `tracking.register_models` decides whether the model is registered, only stored, or neither.
    """
    from image_classifier.classifier import write_metadata
    from image_classifier.tracking import registry, runs

    classifier, validation = choose_threshold(trained.classifier, dataset, config.evaluation)
    write_metadata(folder, classifier.metadata)
    metrics = {f"validation_{name}": value for name, value in validation.metrics.items()}
    if not runs.logged("validation_accuracy"):
        runs.log_metrics(metrics)
    shown = headline(validation.metrics, "validation")
    predictions = folder.parent / paths.VALIDATION_PREDICTIONS
    write_predictions(dataset, validation, predictions)
    runs.log_files([predictions], "training")
    match config.tracking.register_models:
        case "none":
            return "not stored"
        case "best":
            registry.store_for_later(config, dataset, folder, shown)
            return "stored"
        case "each":
            return f"registered as {registry.register(config, dataset, folder, shown).uri}"
