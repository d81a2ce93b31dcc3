"""All that knows MLflow's runs and registry."""
