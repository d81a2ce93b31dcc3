"""adopt: makes a run's settings the pipeline's, as a preset of conf/experiment.

    python -m image_classifier.adopt RUN_ID NAME

Writes conf/experiment/NAME.yaml, with what the run reached in its header, makes it the default in
conf/config.yaml, and composes params.yaml anew: `dvc repro` then repeats the run.
"""

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from image_classifier import config as configuration
from image_classifier.command_line import explain
from image_classifier.config import CONF, PARAMS
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.tracking.runs import Record

SECTIONS = ("dataset", "split", "image", "augmentation", "model", "optimizer", "training")


def adopt(run_id: str, name: str) -> None:
    """Write the preset, and make it the default.

    Raises:
        InputError: the run is no training, the name is taken or no name, or the preset does not
            compose to the run's settings.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise InputError(f"{name!r}: name the preset in small letters, digits and underscores.")
    preset = CONF / "experiment" / f"{name}.yaml"
    if preset.exists():
        raise InputError(f"{preset} exists already: choose another name, or remove it.")
    from image_classifier.tracking import runs  # imports MLflow

    record = runs.record_of(run_id)
    if not record.settings:
        raise InputError(f"run {run_id} has no config/params.yaml: it is no training's.")
    settings: Any = OmegaConf.to_container(OmegaConf.create(record.settings))
    # with the run's threads, without which it does not repeat to the last bit
    settings["training"] |= {"threads": int(record.tags["threads"]), "stop_below_median": False}
    main = CONF / "config.yaml"
    before = main.read_text()
    preset.write_text(preset_text(run_id, name, record, settings))
    try:
        main.write_text(re.sub(r"(?m)^  - experiment: \S+", f"  - experiment: {name}", before))
        composed = configuration.compose()
        adopted = configuration.from_hydra(composed).model_dump()
        for section in SECTIONS:
            # keys that came after the run are in `adopted` alone
            if adopted[section] != adopted[section] | settings[section]:
                raise InputError(f"{preset} does not compose to the run's {section}.")
    except BaseException:
        main.write_text(before)  # nothing is left half done
        preset.unlink()
        raise
    PARAMS.write_text(OmegaConf.to_yaml(composed, resolve=True))
    print(
        f"{preset} is the default now, over other choices of a dataset or model, and {PARAMS} is "
        f"composed anew: run `dvc repro`. To undo it: git checkout {main}, and `make params`."
    )


def preset_text(run_id: str, name: str, record: "Record", settings: dict[str, Any]) -> str:
    """Return the preset: a header of what the run reached, then its settings."""
    monitor = settings["training"]["monitor"]
    figures = {key: max(values.items())[1] for key, values in record.metrics.items()}
    header = [
        "# @package _global_",
        f"# Result: best {monitor} {figures[f'best_{monitor}']:.4f} on "
        f"{settings['dataset']['name']}.",
        f"# Hardware and time: {record.tags['device']}, "
        f"{settings['training']['threads']} threads, "
        f"{figures['train_seconds']:.0f} s.",
        f"# Command: dvc exp run -S experiment={name}   (from MLflow run {run_id})",
        "defaults:",
        f"  - override /model: {settings['model']['name']}",
    ]
    chosen = {section: settings[section] for section in SECTIONS}
    return "\n".join(header) + "\n\n" + OmegaConf.to_yaml(OmegaConf.create(chosen))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="adopt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_id", help="the MLflow run, e.g. a sweep's best job")
    parser.add_argument("name", help="of the preset")
    arguments = parser.parse_args()
    try:
        adopt(arguments.run_id, arguments.name)
    except (InputError, OSError) as error:
        sys.exit(f"adopt: {explain(error)}")


if __name__ == "__main__":
    main()
