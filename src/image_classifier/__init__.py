"""Train, compare, gate and serve image classifiers with DVC, Hydra, Keras and MLflow."""

import os
import sys

# Before any module imports them: TensorFlow's notes on a missing GPU stay off the screen (train
# names the device itself), and MLflow sends no telemetry and draws bars on a terminal only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()))
