"""Draws synthetic chest X-ray phantoms; the embedded dataset consists of them."""
