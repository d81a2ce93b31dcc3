"""retention: deletes the models of a sweep's jobs that lost; their metrics stay.

    python -m image_classifier.retention SWEEP_RUN_ID

The best job keeps its model, and so does any whose version has an alias such as champion.
"""

import argparse
import sys

from image_classifier.command_line import explain
from image_classifier.errors import InputError


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="retention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="the run id of a sweep")
    arguments = parser.parse_args()
    from image_classifier.tracking import sweeps  # imports MLflow

    try:
        models, size = sweeps.delete_losers(arguments.sweep)
    except (InputError, OSError) as error:
        sys.exit(f"retention: {explain(error)}")
    print(f"{models} models deleted, {size / 1e6:.1f} MB.")


if __name__ == "__main__":
    main()
