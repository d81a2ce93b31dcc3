"""rollback: restores the previous champion, and undoes the last promotion."""

import argparse

from image_classifier.config.compose import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit code.

    Raises:
        InputError: there is no champion, or the previous champion does not exist.
    """
    name = load().tracking.registered_model
    from image_classifier.tracking import champion, connection  # import MLflow

    with connection.require_mlflow(to_write=True), champion.one_at_a_time(name):
        before, after = champion.roll_back(name)
    print(f"{after.uri} is champion again; {before.uri} was rolled back.")
    return 0
