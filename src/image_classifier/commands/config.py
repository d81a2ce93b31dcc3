"""config: prints the settings that conf/ composes to; `make params` writes them to params.yaml.

image-classifier config model=article
"""

import argparse

from omegaconf import OmegaConf

from image_classifier.config.compose import compose, typed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. model=article")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    composed = compose(arguments.overrides)
    typed(composed)
    # the format of `dvc exp run`, so that neither changes the other's file
    print(OmegaConf.to_yaml(composed, resolve=True), end="")
    return 0
