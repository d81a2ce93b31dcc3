"""Synthetic chest X-ray phantoms: what the embedded dataset was drawn with."""
