"""A copy of this repository, in which the pipeline runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Project:
    """A copy of the repository's files, with its own params.yaml; runs commands in it."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        """Copy the files, and write the settings of conf/ with the overrides to params.yaml."""
        self.folder = folder
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")
        } | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
        for name in names.stdout.splitlines():
            if name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.run("git", "init", "--quiet")
        self.configure(*overrides)

    def configure(self, *overrides: str) -> None:
        """Write the settings of conf/ with the overrides to params.yaml."""
        text = self.run(sys.executable, "-m", "image_classifier", "config", *overrides)
        (self.folder / "params.yaml").write_text(text)

    def run(self, *command: str) -> str:
        """Run a command in the copy; return its output. If it fails, exit with its output."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if result.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def peak_memory(self, *command: str) -> float:
        """Run a command in the copy; return its peak memory in MiB."""
        # a small process starts the command: the peak of a child includes that of its parent
        code = (
            "import resource, subprocess, sys; "
            "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        peak = int(self.run(sys.executable, "-c", code, *command))
        return peak / (1024**2 if sys.platform == "darwin" else 1024)  # macOS counts bytes

    def read(self, name: str) -> Any:
        """Return the content of a JSON file of the copy."""
        return json.loads((self.folder / name).read_text())
