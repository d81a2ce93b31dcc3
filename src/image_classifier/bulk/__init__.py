"""Predictions for any number of files: where the files are, and the file of the results."""
