"""adopt: makes the settings of a run the defaults of the pipeline.

    image-classifier adopt RUN_ID NAME

Writes conf/experiment/NAME.yaml: the run's result in the first lines, then the settings in which
the run differs from the other files of conf/. Those of the model are in conf/model/NAME.yaml, so
that another model can still be chosen. Makes the preset the default in conf/config.yaml, and writes
params.yaml: `dvc repro` then repeats the run.
"""

import argparse
import re
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from image_classifier.config.compose import CONF, PARAMS, compose, replace_params, typed
from image_classifier.config.schema import Config
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.tracking.runs import Record

SECTIONS = ("dataset", "split", "image", "augmentation", "model", "optimizer", "training")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run_id", metavar="RUN_ID", help="the MLflow run, e.g. a sweep's best job")
    parser.add_argument("name", metavar="NAME", help="the name of the new preset")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    adopt(arguments.run_id, arguments.name)
    return 0


def adopt(run_id: str, name: str) -> None:
    """Write the preset, and make it the default.

    Raises:
        InputError: the run is not a training, the name exists or is not valid, or the preset does
            not compose to the run's settings.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise InputError(f"{name!r}: use lower-case letters, digits and underscores for the name.")
    preset, model = (CONF / group / f"{name}.yaml" for group in ("experiment", "model"))
    for file in (preset, model):
        if file.exists():
            raise InputError(f"{file} exists already: choose another name, or remove it.")
    from image_classifier.tracking import connection, runs  # import MLflow

    with connection.require_mlflow():
        record = runs.record_of(run_id)
    if record.deleted:
        print(f"Note: {record.deleted}.")
    if not record.settings:
        raise InputError(f"run {run_id} has no config/params.yaml: it is not a training.")
    settings: Any = OmegaConf.to_container(OmegaConf.create(record.settings))
    # the weights repeat to the last bit only with the same number of threads
    settings["training"] |= {"threads": int(record.tags["threads"]), "stop_below_median": False}
    settings["training"] |= {"fold": None}  # the pipeline trains on all training images
    main = CONF / "config.yaml"
    before = main.read_text()
    architecture = settings["model"]["name"]
    changes = changes_of(settings, typed(compose(["~experiment", f"model={architecture}"])))
    of_model = changes.pop("model", {})
    try:
        if of_model:
            header = [f"# The model of experiment={name}.", f"defaults: [{architecture}]"]
            model.write_text("\n".join([*header, "", OmegaConf.to_yaml(of_model)]))
        header = preset_header(run_id, name, record, settings)
        header += ["defaults:", f"  - override /model: {name if of_model else architecture}"]
        preset.write_text("\n".join([*header, "", OmegaConf.to_yaml(changes)]))
        main.write_text(re.sub(r"(?m)^  - experiment: \S+", f"  - experiment: {name}", before))
        composed = compose()
        adopted = typed(composed).model_dump()
        for section in SECTIONS:
            # keys that are newer than the run are only in `adopted`
            if adopted[section] != adopted[section] | settings[section]:
                raise InputError(
                    f"The settings of run {run_id} cannot be adopted: conf/ has changed since "
                    f"the run, and would give the section {section} other values. Nothing was "
                    f"changed. Copy the settings by hand from config/params.yaml of the run."
                )
    except BaseException:
        main.write_text(before)  # both changes or none
        preset.unlink(missing_ok=True)
        model.unlink(missing_ok=True)
        raise
    replace_params(composed)
    print(
        f"{preset} is now the default, and overrides the same settings in other files of conf/. "
        f"{PARAMS} has its settings: run `dvc repro`. To undo this, run `git checkout "
        f"{main}` and `make params`."
    )


def changes_of(settings: dict[str, dict[str, Any]], defaults: Config) -> dict[str, dict[str, Any]]:
    """Return the settings that differ from the defaults, by section, without empty sections."""
    known = defaults.model_dump()
    changes = {
        section: {
            key: value
            for key, value in settings[section].items()
            if key not in known[section] or known[section][key] != value
        }
        for section in SECTIONS
    }
    return {section: values for section, values in changes.items() if values}


def preset_header(run_id: str, name: str, record: "Record", settings: dict[str, Any]) -> list[str]:
    """Return the first lines of the preset: the run's result, as comments."""
    monitor = settings["training"]["monitor"]
    metrics = {key: max(values.items())[1] for key, values in record.metrics.items()}
    return [
        "# @package _global_",
        f"# Result: best {monitor} {metrics[f'best_{monitor}']:.4f} on "
        f"{settings['dataset']['name']}.",
        f"# Hardware and time: {record.tags['device']}, "
        f"{settings['training']['threads']} threads, "
        f"{metrics['train_seconds']:.0f} s.",
        f"# Command: dvc exp run -S experiment={name}   (from MLflow run {run_id})",
    ]
