"""The functions that conf/ uses in `${…}`: for DVC, which composes the settings, too."""

import subprocess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from image_classifier.project import paths


def register() -> None:
    """Tell OmegaConf the functions."""
    OmegaConf.register_new_resolver("watched", watched, replace=True)


def watched(path: Any) -> Any:
    """Return the path by which DVC finds a dataset's folder in the project and in its copies.

    DVC does not replace `~`. It takes a relative path from the folder in which it runs, and queued
    experiments run in a temporary copy of the project, which has only what git and DVC track.
    """
    if not isinstance(path, str):
        return path  # null for a repository; the schema reports anything else
    text = str(paths.expanded(path)) if path.startswith("~") else path
    place = paths.project() / text
    return str(place) if place.exists() and not _is_tracked(Path(text)) else text


def _is_tracked(path: Path) -> bool:
    """Return whether git or DVC tracks a path, so that copies of the project have it.

    Without git, experiments run in no copy of the project: the result is True.
    """
    if not paths.is_inside(path):
        return False
    names = [path, *(f"{part}.dvc" for part in (path, *path.parents) if part.name)]
    command = ["git", "--literal-pathspecs", "ls-files", "--", *map(str, names)]
    try:
        found = subprocess.run(command, cwd=paths.project(), capture_output=True)
    except FileNotFoundError:
        return True
    return found.returncode != 0 or bool(found.stdout)
