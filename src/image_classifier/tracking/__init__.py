"""Everything that knows MLflow: the connection, runs, and the model registry."""
