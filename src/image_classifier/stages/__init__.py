"""The stages of dvc.yaml, one module each; each reads from top to bottom."""
