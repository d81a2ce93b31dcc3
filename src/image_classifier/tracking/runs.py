"""Runs in MLflow: how they are opened, described, logged to and read."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME
from omegaconf import OmegaConf

from image_classifier.config.compose import flatten
from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow, read_manifest
from image_classifier.errors import InputError
from image_classifier.project import digests, paths
from image_classifier.project.processes import has_ended, this_machine, this_process
from image_classifier.tracking import connection

SETTINGS_FILE = "config/params.yaml"
COMMIT = MLFLOW_GIT_COMMIT  # the tag with the commit of the code, which MLflow's pages show
STARTED_FROM = "start_from.run_id"  # the tag with the run whose weights were the first
SWEEP_VARIABLE = "IMAGE_CLASSIFIER_SWEEP"  # the id of the sweep's run, for its jobs
PROCESS_VARIABLE = "IMAGE_CLASSIFIER_PROCESS"  # the process of the sweep, for its jobs
TRAIN_AGAIN = ", or train the model again: `dvc repro -f -s train`"
TAG_LENGTH = 5000  # characters that every MLflow store accepts in a tag and in a parameter

SPACE = "&emsp;"

# tags of a run
PROCESS = "process"  # the process that has it open; see `project.processes`
SWEEP_PROCESS = "sweep.process"  # of a job: the process of its sweep
PRUNED = "pruned_after_epoch"  # a job of a sweep that was stopped because others are better
REUSED = "reused_from"  # a job of a sweep that is a copy of an earlier, equal training
# what a copy has of the original, besides its parameters
COPIED_TAGS = (
    "job_key", "recipe_key", "manifest_digest", "device", "threads", "weights_sha256",
    "backbone_sha256", "registered_version", "stored_model", "version_tags",
)  # fmt: skip
# how the names of metrics begin that depend on the machine, too
OF_THE_MACHINE = ("system/", "train_seconds", "cpu_seconds", "stored_bytes")
OTHER_METRICS = (*OF_THE_MACHINE, "test_", "probe_", "shortcut_", "external_")

# settings that do not decide a training: no parameters of its run
NOT_OF_TRAINING = ("evaluation", "promotion", "serving")


@dataclass(frozen=True)
class Record:
    """What a run recorded: its tags, the values of each metric by step, and its settings.

    `deleted` says that the run was deleted, and how to restore it; empty if it was not.
    """

    tags: dict[str, str]
    metrics: dict[str, dict[int, float]]
    settings: str
    deleted: str = ""


def find(run_id: str, to_write: bool = False, otherwise: str = "") -> Run:
    """Return a run; a deleted one only if nothing will be written to it.

    Args:
        run_id: The run.
        to_write: Whether something will be written to it.
        otherwise: What else helps if it is missing or deleted, as the end of a sentence.

    Raises:
        InputError: the store does not have this run, or it was deleted and `to_write` is set.
        MlflowException: MLflow does not answer, or refuses for another reason.
    """
    connection.connect(to_write)
    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(
            f"MLflow run {run_id} is not in {connection.public_uri()}: `mlflow gc` removed it, or "
            f"it is in another store. Set MLFLOW_TRACKING_URI to that store{otherwise}."
        ) from None
    if to_write and (how := restored_by(run)):
        raise InputError(f"{how}{otherwise}.")
    return run


def exists(run_id: str) -> bool:
    """Return whether the store has a run, also as a deleted one: not after `mlflow gc`."""
    try:
        mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if not connection.is_missing(error):
            raise
        return False
    return True


def restored_by(run: Run) -> str:
    """Return that a run was deleted, and the command that restores it; empty if it was not."""
    if run.info.lifecycle_stage == LifecycleStage.ACTIVE:
        return ""
    experiment = mlflow.MlflowClient().get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage == LifecycleStage.ACTIVE:
        return (
            f"MLflow run {run.info.run_id} was deleted: `mlflow runs restore --run-id "
            f"{run.info.run_id}`"
        )
    return (
        f"The MLflow experiment {experiment.name} was deleted, and with it run {run.info.run_id}: "
        f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
    )


def open_training(
    config: Config,
    dataset: PreparedDataset,
    name: str,
    job_key: str,
    overrides: Sequence[str] = (),
    training_id: str = "",
    more_tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the id of a training's MLflow run: a new run, or the one of an earlier attempt.

    Logs the hyperparameters, the dataset, and what is needed to repeat the run.

    Args:
        config: All settings.
        dataset: The prepared images.
        name: The run's name.
        job_key: See `training.identity`.
        overrides: How the settings differ from conf/.
        training_id: Finds the run of an earlier attempt; empty: always a new run.
        more_tags: Where the training began, and which others repeat it.
    """
    experiment = connection.experiment_id(config.tracking.experiment)
    client = mlflow.MlflowClient()
    parent = os.environ.get(SWEEP_VARIABLE)
    given = os.environ.get("MLFLOW_RUN_ID")  # made by `mlflow run`, in an experiment it chose
    if into := parent or given:
        experiment = find(into, to_write=True).info.experiment_id
    close_ended()
    process = {PROCESS: this_process()}
    if PROCESS_VARIABLE in os.environ:
        process[SWEEP_PROCESS] = os.environ[PROCESS_VARIABLE]
    earlier = client.search_runs(
        [experiment], f"tags.training_id = '{training_id}'", max_results=1
    ) if training_id else []  # fmt: skip
    if earlier:
        run_id = earlier[0].info.run_id
        open_again(earlier[0])
        if PROCESS_VARIABLE in os.environ:
            client.set_tag(run_id, SWEEP_PROCESS, os.environ[PROCESS_VARIABLE])
        if parent:  # the attempt may have been a job of another sweep
            client.set_tag(run_id, "mlflow.parentRunId", parent)
    elif given:
        run_id = given
        client.update_run(run_id, name=short(name))
        for tag in ({"training_id": training_id} | process).items():
            client.set_tag(run_id, *tag)
    else:
        tags = {"training_id": training_id} | process | origin()
        if parent:
            tags["mlflow.parentRunId"] = parent
        run_id = client.create_run(experiment, run_name=short(name), tags=tags).info.run_id
    if not earlier or "job_key" not in earlier[0].data.tags:
        log_description(run_id, config, dataset, job_key, overrides, more_tags)
    return str(run_id)


def log_description(
    run_id: str,
    config: Config,
    dataset: PreparedDataset,
    job_key: str,
    overrides: Sequence[str],
    more_tags: Mapping[str, str],
) -> None:
    """Log the settings and the data of a training, and the code and command it comes from."""
    client = mlflow.MlflowClient()
    hyperparameters = {
        key: value for key, value in flatten(config).items() if not key.startswith(NOT_OF_TRAINING)
    }
    params = [Param(key, cut(str(value), SETTINGS_FILE)) for key, value in hyperparameters.items()]
    log_dataset(run_id, config.dataset.name, dataset.digest, dataset.source)
    client.log_text(run_id, OmegaConf.to_yaml(config.model_dump()), SETTINGS_FILE)
    tags = provenance() | {
        "manifest_digest": dataset.digest,
        **overrides_tags(overrides),
        "job_key": job_key,
        **more_tags,
    }
    if config.dataset.note:
        tags["mlflow.note.content"] = cut(config.dataset.note, SETTINGS_FILE)
    client.log_batch(run_id, params=params, tags=[RunTag(*tag) for tag in tags.items()])


def log_dataset(run_id: str, name: str, digest: str, source: Mapping[str, object]) -> None:
    """Log the dataset of a training.

    Args:
        run_id: The run of the training.
        name: The dataset's name.
        digest: The SHA-256 of its manifest, in hexadecimal. MLflow keeps the first 36 digits.
        source: Where its images come from.

    Raises:
        MlflowException: MLflow fails, or refuses twice.
    """
    where = CodeDatasetSource(tags={key: str(value) for key, value in source.items()})
    described = MetaDataset(where, name=name, digest=digest[:36])
    context = [InputTag("mlflow.data.context", "training")]
    inputs = [DatasetInput(Dataset.from_dictionary(described.to_dict()), context)]
    client = mlflow.MlflowClient()
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if not connection.is_refusal(error):
            raise
        # Several processes log a new dataset at the same moment: MLflow adds it for one of them,
        # and refuses the others. The second try finds it.
        client.log_inputs(run_id, inputs)


def copy_training(original: str, parent: str, overrides: Sequence[str]) -> None:
    """Add a copy of a finished training to a sweep: its parameters and the metrics of its epochs.

    Args:
        original: The run of the training.
        parent: The run of the sweep.
        overrides: The overrides of the job.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(original)
    tags = {name: run.data.tags[name] for name in COPIED_TAGS if name in run.data.tags}
    tags |= {"mlflow.parentRunId": parent, REUSED: original, **overrides_tags(overrides)}
    tags |= {"mlflow.note.content": f"A copy of run `{original}`, the same training.", **origin()}
    copy = client.create_run(run.info.experiment_id, run_name=run.info.run_name, tags=tags)
    metrics = [
        metric
        for name in run.data.metrics
        if not name.startswith(OTHER_METRICS)
        for metric in client.get_metric_history(original, name)
    ]
    for start in range(0, len(metrics), 1000):  # as many as MLflow accepts at once
        client.log_batch(copy.info.run_id, metrics=metrics[start : start + 1000])
    client.log_batch(copy.info.run_id, params=[Param(*item) for item in run.data.params.items()])
    client.set_terminated(copy.info.run_id)


def has_predictions(run_id: str) -> bool:
    """Return whether a run has its predictions for the validation images.

    A run of a pipeline has none, nor has one whose files were deleted.
    """
    if not exists(run_id):
        return False
    files = mlflow.MlflowClient().list_artifacts(run_id, "training")
    return any(file.path.endswith(paths.VALIDATION_PREDICTIONS) for file in files)


def overrides_tags(overrides: Sequence[str]) -> dict[str, str]:
    """Return the overrides of a job as tags: more than one where they are longer than a tag."""
    text = json.dumps(list(overrides))
    parts = [text[start : start + TAG_LENGTH] for start in range(0, len(text), TAG_LENGTH)]
    return {f"overrides{number or ''}": part for number, part in enumerate(parts)}


def overrides_of(run: Run) -> list[str]:
    """Return the overrides of a job from its tags."""
    parts = [run.data.tags["overrides"]]
    while (name := f"overrides{len(parts)}") in run.data.tags:
        parts.append(run.data.tags[name])
    words: list[str] = json.loads("".join(parts))
    return words


def open_again(run: Run) -> None:
    """Open the run of an earlier attempt, which this process continues."""
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, PROCESS, this_process())
    client.update_run(run.info.run_id, "RUNNING")
    if "error" in run.data.tags:
        client.delete_tag(run.info.run_id, "error")


def close_ended() -> None:
    """Close the runs that a process of this machine left open when it ended, as killed; say so.

    Runs of other machines, and of programs that do not record their process, stay as they are.
    """
    for run in running_here():
        if has_ended(run.data.tags[PROCESS]):
            run_id = run.info.run_id
            client = mlflow.MlflowClient()
            histories = (client.get_metric_history(run_id, name) for name in run.data.metrics)
            times = [metric.timestamp for history in histories for metric in history]
            client.set_terminated(run_id, "KILLED", max(times, default=run.info.start_time))
            print(f"MLflow run {run_id}: its process was killed. It is closed as KILLED now.")


def close_own() -> None:
    """Close the runs of this process and of the jobs of its sweep, which all end now, as killed."""
    for run in running_here():
        if this_process() in (run.data.tags[PROCESS], run.data.tags.get(SWEEP_PROCESS)):
            mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def running_here() -> list[Run]:
    """Return the runs that are open, and that a process of this machine has opened."""
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"attributes.status = 'RUNNING' AND tags.{PROCESS} LIKE '{this_machine()} %'"
    found: list[Run] = client.search_runs(experiments, query)
    return found


def close_failed(run_id: str, error: BaseException) -> None:
    """Close a run that ended with an error; the tag `error` says which."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "error", connection.describe(error))
    client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")


@contextmanager
def open_run(run_id: str) -> Iterator[None]:
    """Open an existing run to log to it; close it as finished, or as failed after an exception.

    Raises:
        InputError: the store does not have this run, or it was deleted.
    """
    find(run_id, to_write=True, otherwise=TRAIN_AGAIN)
    close_ended()
    mlflow.MlflowClient().set_tag(run_id, PROCESS, this_process())
    try:
        mlflow.start_run(run_id)
        yield
    except BaseException as error:
        mlflow.end_run("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    mlflow.end_run()


def cut(text: str, whole: str = "") -> str:
    """Return a text, cut to the length of a tag or parameter; its end then says so.

    Args:
        text: The text.
        whole: The file of the run that has the whole text.
    """
    if len(text) <= TAG_LENGTH:
        return text
    end = f"… (cut: {len(text):,} characters{f', all in {whole}' if whole else ''})"
    return text[: TAG_LENGTH - len(end)] + end


def note(text: str) -> str:
    """Return Markdown for MLflow's pages, which put no space between the columns of a table."""
    return text.replace(" | ", f"{SPACE} | ").replace(f"---{SPACE}", "---")


def plain(note: str) -> str:
    """Return the Markdown that a note of MLflow was made of."""
    return note.replace(f"{SPACE} | ", " | ")


def short(name: str) -> str:
    """Return a run's name, cut to the length that PostgreSQL and MySQL can store."""
    return name if len(name) <= 250 else f"{name[:249]}…"


def log_epoch(run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
    """Log the metrics of an epoch, counted from 1, in one request."""
    now = time.time_ns() // 1_000_000
    batch = [Metric(name, float(value), now, epoch) for name, value in metrics.items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=batch)


def logged_epochs(run_id: str) -> set[int]:
    """Return the epochs whose metrics a run has."""
    history = mlflow.MlflowClient().get_metric_history(run_id, "train/loss")
    return {metric.step for metric in history}


def logged(metric: str) -> bool:
    """Return whether the open run already has a metric."""
    return metric in mlflow.MlflowClient().get_run(run_id()).data.metrics


def log_metrics(metrics: Mapping[str, float]) -> None:
    """Log final metrics to the open run; without a step, MLflow draws them as bars."""
    mlflow.log_metrics(dict(metrics))


def log_tags(tags: Mapping[str, object]) -> None:
    """Set tags on the open run."""
    mlflow.set_tags(tags)


def log_settings(config: Config) -> None:
    """Store all settings with the open run."""
    mlflow.log_text(OmegaConf.to_yaml(config.model_dump()), SETTINGS_FILE)


def log_files(files: Sequence[Path], folder: str) -> None:
    """Store files with the open run, in a folder of its artifacts."""
    for file in files:
        mlflow.log_artifact(str(file), folder)


def run_id() -> str:
    """Return the id of the open run."""
    return str(mlflow.active_run().info.run_id)


@contextmanager
def manifest_of(run_id: str) -> Iterator[Path]:
    """Yield a copy of the manifest that a run was trained with.

    Raises:
        InputError: the store does not have it.
    """
    connection.connect()
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = mlflow.MlflowClient().download_artifacts(run_id, "data/manifest.csv", folder)
        except (MlflowException, OSError) as error:
            raise InputError(
                f"{connection.public_uri()} lacks data/manifest.csv of run {run_id}: "
                f"{connection.describe(error)}"
            ) from None
        yield Path(file)


def seen_by(run_id: str, same_split: str = "") -> list[ImageRow]:
    """Return the images of a run, and of the runs whose weights it started from, in one list.

    Args:
        run_id: The run.
        same_split: The digest of a manifest that is left out.

    Raises:
        InputError: the store lacks one of the runs, or its manifest.
    """
    rows: list[ImageRow] = []
    ancestor: str | None = run_id
    while ancestor:
        tags = tags_of(ancestor)
        if tags.get("manifest_digest") != same_split:
            with manifest_of(ancestor) as file:
                rows += read_manifest(file)
        ancestor = tags.get(STARTED_FROM)
    return rows


def tags_of(run_id: str) -> dict[str, str]:
    """Return the tags of a run, also of a deleted one.

    Raises:
        InputError: the store does not have this run.
    """
    tags: dict[str, str] = find(run_id).data.tags
    return tags


def record_of(run_id: str, store: str | None = None) -> Record:
    """Return what a run recorded, in the store of this project or in another.

    Raises:
        InputError: the store does not have this run, it is a copy, or its files were deleted.
    """
    client = mlflow.MlflowClient(store)
    run = client.get_run(run_id) if store else find(run_id)
    metrics = {
        name: {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
        for name in run.data.metrics
    }
    deleted = restored_by(run)
    if not any(file.path == SETTINGS_FILE for file in client.list_artifacts(run_id, "config")):
        if REUSED in run.data.tags:
            raise InputError(
                f"MLflow run {run_id} is a copy of run {run.data.tags[REUSED]}: give the id "
                f"of that run."
            )
        if "job_key" in run.data.tags:
            raise InputError(
                f"The files of MLflow run {run_id} were deleted from {run.info.artifact_uri}, with "
                f"its settings, {SETTINGS_FILE}. Restore them from a backup."
            )
        return Record(run.data.tags, metrics, "", deleted)
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(run_id, SETTINGS_FILE, folder)
        return Record(run.data.tags, metrics, Path(file).read_text(), deleted)


def origin() -> dict[str, str]:
    """Return who starts a run and with what, as the tags that MLflow's own pages show."""
    name = " ".join(["image-classifier", *sys.argv[1:2]])
    tags: dict[str, str] = resolve_tags({MLFLOW_SOURCE_NAME: name})
    return tags


def provenance() -> dict[str, str]:
    """Return where a run comes from: command, commit, DVC experiment, digests of lock files."""
    tags = {"command": cut(" ".join(sys.argv))}
    with suppress(FileNotFoundError):  # git is not installed
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        if commit.returncode == 0:
            tags[COMMIT] = commit.stdout.strip()
            # the pipeline writes the others itself; the settings are stored with the run
            status = ["git", "status", "--porcelain", "--", "."]
            status += [f":!{name}" for name in (paths.BUILD, "dvc.lock", "params.yaml")]
            changed = subprocess.run(status, capture_output=True, text=True)
            tags["git.uncommitted_changes"] = str(bool(changed.stdout.strip())).lower()
    for variable in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE"):
        if os.environ.get(variable):
            tags[variable.lower().replace("dvc_", "dvc.")] = os.environ[variable]
    for name in ("params.yaml", "dvc.lock", "requirements.lock"):
        if Path(name).is_file():
            tags[f"sha256.{name}"] = digests.of_file(Path(name))
    return tags
