"""train: fits a model, and keeps the checkpoint of its best epoch.

Reads build/split and build/prepare. Writes build/train: the model, the history, learning curves,
the layers, the metrics of the best epoch, and the MLflow run. `evaluate` then chooses the decision
threshold and registers the model.

A training that was killed, or whose results could not be logged to MLflow, continues when the
command runs again.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from image_classifier.config.compose import compose
from image_classifier.config.schema import Config, PretrainedModel
from image_classifier.data.dataset import PreparedDataset, load_prepared
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import new_file
from image_classifier.training import class_balance, phases, resume
from image_classifier.training.finished import Finished

if TYPE_CHECKING:
    import keras

    from image_classifier.classifier import Classifier
    from image_classifier.tracking.start_from import Start
    from image_classifier.training.progress import Progress

RECIPE = ("augmentation", "model", "optimizer", "training")  # the sections that name a run


@dataclass(frozen=True)
class Trained:
    """A training whose last epoch is done.

    Attributes:
        run_id: The MLflow run.
        progress: All its epochs.
        best_epoch: The best of them, counted from 1.
        value: The best epoch's value of `training.monitor`.
        classifier: The best epoch's model; its threshold is not chosen yet.
        batch_size: Images in a step.
    """

    run_id: str
    progress: "Progress"
    best_epoch: int
    value: float
    classifier: "Classifier"
    batch_size: int


def train(config: Config) -> None:
    """Train on the prepared images, as the stage of DVC.

    Raises:
        InputError: the images are not prepared, the training diverged, or MLflow failed.
    """
    dataset = load_prepared(config)
    check(config, dataset)
    config, start = resolve_start(config, dataset)
    with resume.claim(config, dataset, start.weights_sha256 if start else "") as state:
        trained = train_model(config, dataset, paths.TRAIN, state, start=start)
        record: dict[str, Any] = {"run_id": trained.run_id, "training_key": state.key}
        if config.training.batch_size == "auto":
            record["batch_size"] = trained.batch_size
        if start:
            record["start_from"] = asdict(start)
        if isinstance(config.model, PretrainedModel):
            from image_classifier.training import backbones

            record["backbone_sha256"] = backbones.weights_digest(config.model)
            record["backbone_license"] = backbones.license_of(config.model)
            record["backbone_remark"] = backbones.remark_on_size(config.model, config.image)
        new_file(paths.TRAIN / paths.RUN).write_text(json.dumps(record, indent=2) + "\n")
        state.mark_finished(paths.TRAIN / paths.RUN)
    print(f"MLflow run {trained.run_id}. The stage evaluate registers the model.")
    # `evaluate` finishes the state: only when it runs has DVC saved the outputs of this stage


def train_model(
    config: Config,
    dataset: PreparedDataset,
    output: Path,
    state: resume.ResumeState,
    overrides: Sequence[str] = (),
    more_stoppers: Sequence["keras.callbacks.Callback"] = (),
    start: "Start | None" = None,
) -> Trained:
    """Train one model, and log it to MLflow.

    Args:
        config: All settings.
        dataset: The prepared images.
        output: The folder for the model and what describes it.
        state: What an earlier attempt left, or where this one keeps its epochs.
        overrides: How the settings differ from conf/, to tell the jobs of a sweep apart.
        more_stoppers: Callbacks that may stop the training early.
        start: From `resolve_start`.

    Raises:
        InputError: the training diverged, MLflow refused or did not answer, or the model cannot
            start from that version.
    """
    # TensorFlow and MLflow take seconds to import: wrong input is reported before
    from image_classifier.tracking import connection, runs, start_from, system_metrics
    from image_classifier.tracking.epoch_logger import EpochLogger
    from image_classifier.training import automatic, backbones, devices, first_weights, fit
    from image_classifier.training.checkpoint import Checkpoint
    from image_classifier.training.epoch_file import latest
    from image_classifier.training.timings import Timings

    timings = Timings()
    devices.check(config.training)
    strategy = devices.configure(config.training)
    print(devices.describe())
    print(f"classes: {dict(enumerate(dataset.classes))}, image shape: {config.image.shape}")
    if isinstance(config.model, PretrainedModel) and (
        remark := backbones.remark_on_size(config.model, config.image)
    ):
        print(f"WARNING: {remark}")
    with strategy.scope():
        training = automatic.resolved(config, dataset, state.folder)
    config = config.model_copy(update={"training": training})

    progress, _ = latest(state.folder, training)
    continued = state.continued if progress.epochs else None  # its files may be damaged
    first = None
    if start and not progress.epochs:
        first = first_weights.first_weights(config, dataset, start_from.load(start))
    tags = {"recipe_key": state.recipe_key} | (start.tags if start else {})
    if continued:
        tags["continued_from"] = continued.run_id
    open_training = partial(
        runs.open_training,
        config,
        dataset,
        run_name(config),
        state.job_key,
        overrides,
        state.training_id,
        tags,
    )
    run_id = connection.log_or_continue(open_training)
    with failure_logged(run_id):
        timings.earlier = progress.timings
        timings.start_fit()
        print_beginning(config, progress, continued)
        while phase := phases.current(config, progress):
            with strategy.scope():
                model = fit.model_of(config, dataset, phase, state.folder, progress, first)
            model.summary()
            stoppers = [*fit.stoppers(training), *more_stoppers]
            callbacks = [
                *stoppers,
                Checkpoint(state.folder, training, progress, stoppers, timings.spent, phase),
                EpochLogger(run_id, progress, training),
            ]
            with system_metrics.monitored(run_id):
                fit.fit(model, dataset, config, phase, progress, callbacks)
        best_epoch, value = progress.best(training)
        if not best_epoch:
            state.discard()
            raise InputError(
                f"The training diverged: val_loss was NaN in every epoch. Lower "
                f"optimizer.learning_rate={config.optimizer.learning_rate:g}."
            )
        classifier = write_outputs(config, dataset, output, state, progress)

    with upload_can_be_repeated(state):
        run_id = run_id or open_training()
        with runs.open_run(run_id):
            trained = Trained(
                run_id, progress, best_epoch, value, classifier, training.images_per_step
            )
            log_training(config, output, state, trained, timings.spent())
    why_not = phases.why_not_continued(config)
    if progress.stopped_from_outside:
        why_not = why_not or "the sweep stopped that training early"
    state.mark_trained(run_id, training.epochs, why_not)
    print(f"Best epoch {best_epoch}: {training.monitor} {value:.4f}.")
    return trained


def print_beginning(config: Config, progress: "Progress", continued: Finished | None) -> None:
    """Print after which epoch the training goes on, and whose epoch that is; nothing for a new one.

    Args:
        config: All settings.
        progress: The epochs so far.
        continued: The finished training with fewer epochs whose epochs came first, if any.
    """
    if not progress.epochs:
        return
    run = continued.run_id if continued and progress.epochs <= continued.epochs else None
    if phases.current(config, progress):
        whose = f"MLflow run {run}" if run else "an earlier attempt"
        print(f"Continuing {whose} after epoch {progress.epochs}.")
    else:
        last = f"epoch {progress.epochs}" + (f" of MLflow run {run}" if run else "")
        print(f"This training is finished already, at {last}: nothing to train.")


def write_outputs(
    config: Config,
    dataset: PreparedDataset,
    output: Path,
    state: resume.ResumeState,
    progress: "Progress",
) -> "Classifier":
    """Write the best epoch's model and what describes the training; return the classifier."""
    from image_classifier.classifier import WEIGHTS, Classifier, Metadata, write_metadata
    from image_classifier.data.images import DECODER_VERSION
    from image_classifier.training import fit, learning_curves

    folder = output / paths.MODEL
    folder.mkdir(parents=True, exist_ok=True)
    model = fit.best_model(config, dataset, state.folder, progress)
    model.save(new_file(folder / WEIGHTS))
    undecided = Metadata(
        classes=dataset.classes,
        threshold=0.5,
        temperature=1.0,
        **config.image.model_dump(),
        decoder=DECODER_VERSION,
        scale=dataset.scale,
    )
    write_metadata(folder, undecided)

    best_epoch, _ = progress.best(config.training)
    metrics = progress.epoch_metrics(config.training, best_epoch)
    best = {name: value for name, value in metrics.items() if name.startswith("best_")}
    text = json.dumps({"best_epoch": best_epoch, **best}, indent=2)
    new_file(output / paths.METRICS).write_text(text + "\n")
    learning_curves.write_history(progress, output / paths.HISTORY)
    learning_curves.plot_learning_curves(progress, best_epoch, output / paths.CURVES)
    learning_curves.write_layers(model, output / paths.SUMMARY)
    return Classifier(model, undecided)


def log_training(
    config: Config,
    output: Path,
    state: resume.ResumeState,
    trained: Trained,
    timings: dict[str, float],
) -> None:
    """Log the result of a training to the open run, as far as an earlier attempt did not."""
    from image_classifier.classifier import weights_digest
    from image_classifier.tracking import runs
    from image_classifier.tracking.epoch_logger import log_missing_epochs
    from image_classifier.training import devices

    log_missing_epochs(trained.run_id, trained.progress, config.training)
    model = trained.classifier.model
    runs.log_tags(
        {
            "device": devices.describe(),
            "threads": devices.threads(),
            "weights_sha256": weights_digest(model),
        }
    )
    if isinstance(config.model, PretrainedModel):
        from image_classifier.training import backbones

        runs.log_tags({"backbone_sha256": backbones.weights_digest(config.model)})
    described = [output / name for name in (paths.CURVES, paths.HISTORY, paths.SUMMARY)]
    runs.log_files(described, "training")
    runs.log_files(state.data_files, "data")
    if not runs.logged("train_seconds"):
        files = [path for path in (output / paths.MODEL).rglob("*") if path.is_file()]
        metrics = {
            "checkpoint_epoch": trained.best_epoch,
            "parameters": model.count_params(),
            "stored_bytes": sum(path.stat().st_size for path in files),
            **timings,
            "fit_seconds": trained.progress.timings["fit_seconds"],
        }
        runs.log_metrics(metrics)


@contextmanager
def failure_logged(run_id: str | None) -> Iterator[None]:
    """Close the MLflow run as failed, with the error, when the block raises."""
    from image_classifier.tracking import runs

    try:
        yield
    except BaseException as error:
        if run_id:
            with suppress(Exception):  # MLflow may fail, too: the first error counts
                runs.close_failed(run_id, error)
        raise


@contextmanager
def upload_can_be_repeated(state: resume.ResumeState) -> Iterator[None]:
    """Turn every error of the block into the message that the training itself is finished."""
    from image_classifier.tracking import connection

    try:
        yield
    except Exception as error:
        raise InputError(
            f"Training finished, but logging to MLflow at {connection.public_uri()} failed "
            f"({connection.describe(error)}). Nothing is lost: run the same command again when "
            f"MLflow works. It uploads the rest without training again. Until then everything is "
            f"in {state.folder}."
        ) from error


def check(config: Config, dataset: PreparedDataset) -> None:
    """Check what can be known before the training.

    Raises:
        InputError: a batch would be larger than the training split, the class weights are of
            other classes, or nothing would be trained.
    """
    images, size = len(dataset.indices("train")), config.training.batch_size
    if size != "auto" and size > images:
        raise InputError(
            f"training.batch_size={size} is more than the {images} training images: set it to "
            f"{images} or less."
        )
    class_balance.class_weights(config.training, dataset)
    if config.training.start_from and phases.has_backbone(config) and not phases.fine_tunes(config):
        raise InputError(
            "training.start_from with a pretrained model starts with its fine-tuning, but "
            "training.fine_tune=none: set training.fine_tune=top or training.fine_tune=all."
        )


def resolve_start(config: Config, dataset: PreparedDataset) -> "tuple[Config, Start | None]":
    """Find the version that `training.start_from` names now.

    Returns:
        The settings with the number of the version in place of an alias or a run, so that they
        identify the training and repeat it later, and the version; None without one.

    Raises:
        InputError: there is no such version, it has seen test images, or MLflow failed.
    """
    if config.training.start_from is None:
        return config, None
    from image_classifier.tracking import connection, start_from

    with connection.require_mlflow():
        return start_from.resolve(config, dataset)


def run_name(config: Config) -> str:
    """Return a short name: the model, and how its settings differ from the model's defaults."""
    defaults = default_recipe(config.model.name)
    changes = []
    for section in RECIPE:
        for key, value in getattr(config, section).model_dump().items():
            if value != OmegaConf.select(defaults, f"{section}.{key}"):
                name = "lr" if key == "learning_rate" else key
                text = f"{value:.4g}" if isinstance(value, float) else value
                changes.append(f"{name}={text}")
    return " ".join([config.model.name, *changes, os.environ.get("DVC_EXP_NAME", "")]).strip()


@cache
def default_recipe(model: str) -> DictConfig:
    """Return what conf/ composes to for a model."""
    return compose([f"model={model}"])
