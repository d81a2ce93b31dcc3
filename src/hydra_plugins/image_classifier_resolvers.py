"""For `dvc exp run`, which composes conf/ itself: see `plugins_path` in .dvc/config."""

from image_classifier.config import resolvers

resolvers.register()
