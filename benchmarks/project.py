"""A copy of this repository to run the pipeline in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Project:
    """A copy of the repository's files with settings in params.yaml, and commands run in it."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        """Make the copy."""
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
        """Write params.yaml with other settings."""
        text = self.run(sys.executable, "-m", "image_classifier", "config", *overrides)
        (self.folder / "params.yaml").write_text(text)

    def run(self, *command: str) -> str:
        """Run a command here; return its output, or stop with it where it fails."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if result.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def peak_memory(self, *command: str) -> float:
        """Run a command here; return the most memory it held at once, in MiB."""
        # a small process in between: a child begins with the peak of the process it is forked from
        code = (
            "import resource, subprocess, sys; "
            "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        peak = int(self.run(sys.executable, "-c", code, *command))
        return peak / (1024**2 if sys.platform == "darwin" else 1024)  # macOS counts bytes

    def read(self, name: str) -> Any:
        """Read a JSON file here."""
        return json.loads((self.folder / name).read_text())
