"""Numbers on the command line, for argparse."""

import argparse

from image_classifier.config.schema import PROBABILITY


def probability(text: str) -> float:
    """Return a number from 0 to 1.

    Raises:
        ArgumentTypeError: it is not one.
    """
    try:
        return PROBABILITY.validate_python(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1") from None


def count(text: str) -> int:
    """Return an integer from 1 on.

    Raises:
        ArgumentTypeError: it is not one.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not an integer from 1 on")
    return int(text)
