"""config: prints the settings that conf/ composes to; `make params` writes them to params.yaml.

image-classifier config model=article

On the error stream, it says which settings have other values than in params.yaml.
"""

import argparse

from image_classifier.config.compose import as_yaml, compose, print_changes, typed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. model=article")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    composed = compose(arguments.overrides)
    typed(composed)
    print_changes(composed)
    print(as_yaml(composed), end="")
    return 0
