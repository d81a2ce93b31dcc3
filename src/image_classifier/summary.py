"""Prints what the pipeline made, and the commands to look at it, compare, serve and predict."""

import json
import textwrap

from image_classifier import config, paths
from image_classifier.command_line import run_stage
from image_classifier.config import PARAMS
from image_classifier.errors import InputError
from image_classifier.schema import Config


def summary(settings: Config) -> None:
    """Print the summary.

    Raises:
        InputError: the pipeline has not run.
    """
    files = (paths.FETCHED, paths.EVALUATE / paths.METRICS, paths.TRAIN / paths.RUN, paths.DECISION)
    if missing := [str(path) for path in files if not path.is_file()]:
        raise InputError(f"{', '.join(missing)} not found: run `dvc repro`.")
    fetched, figures, run, decision = (json.loads(path.read_text()) for path in files)

    uri = f"models:/{decision['name']}/{decision['version']}"
    print(f"\nDataset     {settings.dataset.name} from {fetched['source']}")
    if settings.dataset.note:
        print(f"            {settings.dataset.note}")
    print(f"Model       {settings.model.name}")
    test = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(textwrap.fill(test, 88, initial_indent="Test        ", subsequent_indent=" " * 12))
    print(f"MLflow run  {run['run_id']}")
    print(f"Registered  {uri}")
    if decision["champion"]:
        print("            champion")
        uri = f"models:/{decision['name']}@champion"
    else:
        print(f"            not champion: {'; '.join(decision['reasons'])}")
    print(f"""
Activate    source .venv/bin/activate
Look        make ui                         then http://127.0.0.1:5000
Compare     dvc exp show                    or select runs in the MLflow UI
Serve       python -m image_classifier.serve --model {uri}
Predict     python -m image_classifier.predict {paths.RAW} --model {uri}""")
    if settings != config.from_hydra(config.compose()):
        print(
            f"\n{PARAMS} is not what conf/ composes: this was an experiment's setting. "
            f"`make params` writes the defaults again."
        )


if __name__ == "__main__":
    run_stage(summary)
