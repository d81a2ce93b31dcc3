"""Runs a stage from the command line: reads params.yaml, shows what a user can mend in one line."""

import argparse
import sys
from collections.abc import Callable

from image_classifier import config
from image_classifier.errors import InputError


def run_stage(stage: Callable[[config.Config], None]) -> None:
    """Run `stage` with the settings of params.yaml; exit 1 with a message on an InputError."""
    description = sys.modules[stage.__module__].__doc__
    argparse.ArgumentParser(prog=stage.__name__, description=description).parse_args()
    try:
        stage(config.load())
    except InputError as error:
        sys.exit(f"{stage.__name__}: {error}")
