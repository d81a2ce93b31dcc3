"""Fits a Keras model on prepared images. Knows Keras only: neither MLflow nor evaluation."""
