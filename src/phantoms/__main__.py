"""Runs the command line: `python -m phantoms FOLDER`."""

from phantoms.dataset import main

main()
