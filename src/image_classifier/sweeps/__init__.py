"""Trainings that Hydra starts: single runs and sweeps, and the MLflow run of a sweep."""
