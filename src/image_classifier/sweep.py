"""A Hydra sweep as one MLflow parent run: opened first, closed last with the best job named."""

import sys
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

DATA_SECTIONS = ("dataset", "split", "image")


class SweepCallback(Callback):
    """Called by Hydra, see conf/config.yaml. It stops by `sys.exit`: Hydra swallows exceptions."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what a sweep cannot do, and open the parent run."""
        overrides = list(config.hydra.overrides.task)
        refuse_data_sweep(overrides)
        from image_classifier import tracking  # imports MLflow

        self.parent = tracking.start_sweep(config.tracking.experiment, overrides)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent run; print the best job, and exit 1 where any job failed."""
        from image_classifier import tracking

        result = tracking.finish_sweep(self.parent)
        print(f"\nSweep {self.parent}: {result.finished} jobs finished, {result.failed} failed.")
        if result.best:
            print(
                f"Best: {result.best.name}, {result.metric} {result.best.value:.4f}, "
                f"{result.best.version}\nMake it the pipeline's:\n"
                f"  {adopt_command(result.best.overrides)}"
            )
        if result.failed or not result.best:
            sys.exit(1)


def refuse_data_sweep(overrides: list[str]) -> None:
    """Exit with a message where a sweep varies the data, which only the whole pipeline can."""
    for override in OverridesParser.create().parse_overrides(overrides):
        section = override.key_or_group.split(".")[0]
        if override.is_sweep_override() and section in DATA_SECTIONS:
            sys.exit(
                f"train: a sweep of {override.key_or_group} changes the prepared images, so it "
                f"needs the whole pipeline: dvc exp run --queue -S '{override.input_line}', then "
                f"dvc exp run --run-all."
            )


def adopt_command(overrides: list[str]) -> str:
    """Return the command that runs the pipeline with a job's settings."""
    return " ".join(["dvc exp run", *(f"-S '{override}'" for override in overrides)])


def abandon() -> None:
    """Close the sweep of this process as failed, if one is open."""
    if tracking := sys.modules.get("image_classifier.tracking"):
        tracking.abandon_sweep()
