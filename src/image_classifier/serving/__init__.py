"""The model that MLflow stores, and the HTTP server around it."""
