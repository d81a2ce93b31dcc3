"""The Dockerfile, without a container engine: its steps, and the server in a folder as it makes."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from docker.utils import exclude_paths  # comes with mlflow

from conftest import ROOT, Project, copy_of


class Step(NamedTuple):
    """An instruction of a Dockerfile, and what follows it on its line."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words, or the list of the exec form; without options of the instruction."""
        start = self.text.find("[")
        if self.name in ("ENTRYPOINT", "HEALTHCHECK") and start >= 0:
            return json.loads(self.text[start:])
        return shlex.split(self.text)


def stages() -> list[list[Step]]:
    """Return the steps of each stage of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    code = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    found: list[list[Step]] = []
    for line in code.replace("\\\n", " ").splitlines():
        step = Step(*line.split(maxsplit=1))
        if step.name == "FROM":
            found.append([])
        found[-1].append(step)
    return found


def of_kind(steps: list[Step], name: str) -> list[Step]:
    """Return the steps with this instruction."""
    return [step for step in steps if step.name == name]


def context(folder: Path) -> set[str]:
    """Return the files that an engine gets of a folder, by its .dockerignore."""
    lines = (folder / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {name for name in exclude_paths(str(folder), patterns) if (folder / name).is_file()}


def copy_step(step: Step, source: Path, work: Path) -> list[str]:
    """Copy what a COPY step names from the context to the working folder; return the files."""
    *names, target = step.words
    copied = []
    for file in context(source):
        for name in names:
            inside = Path(file).is_relative_to(name)
            if file == name:  # a file keeps its name; of a folder, the content is copied
                place = work / target / Path(name).name
            elif inside:
                place = work / target / Path(file).relative_to(name)
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, place)
            copied.append(str(place.relative_to(work)))
    return copied


def as_user(number: int) -> list[str]:
    """Return the beginning of a command that runs the rest as a user without a name or a right."""
    if os.geteuid() != 0:  # only root can become another user; this one has no rights either
        return []
    prefix = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    python = Path(sys.executable).resolve()
    if not all(folder.stat().st_mode & 0o001 for folder in python.parents):
        # Python is in a folder of root only: the user may read everything, and write nothing
        prefix += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return prefix


class Container(NamedTuple):
    """The process that a container would run."""

    process: subprocess.Popen[bytes]
    port: int
    environment: dict[str, str]
    work: Path
    log: Path


@pytest.fixture
def container(project: Project, world: Path) -> Iterator[Container]:
    """The last stage's files in a read-only folder, and its entry point, running in it.

    The installed packages are those of this environment. The store is a copy that the user may
    read only, as with a mounted folder.
    """
    store = copy_of(project, world / "project", ".git", ".dvc", "build").store
    final = stages()[-1]
    work, temporary = world / "app", world / "tmp"
    for step in of_kind(final, "COPY"):
        if "--from" not in step.text:
            assert copy_step(step, project.folder, work)
    assert (work / "src/image_classifier").is_dir()  # else this environment's would be imported
    before = sorted(work.rglob("*"))
    for path in [work, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    temporary.mkdir()
    temporary.chmod(0o777)
    world.chmod(0o755)
    values = dict(pair.split("=", 1) for step in of_kind(final, "ENV") for pair in step.words)
    environment = {name: value.replace("/tmp", str(temporary)) for name, value in values.items()}
    environment |= {
        "PATH": values["PATH"].replace("/venv/bin", str(Path(sys.executable).parent)),
        "PYTHONPATH": str(work / "src"),  # stands for the link of the install step
        "TMPDIR": str(temporary),
        "MLFLOW_TRACKING_URI": store,
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*of_kind(final, "ENTRYPOINT")[0].words, "--port", str(port)]
    user = int(of_kind(final, "USER")[0].text.partition(":")[0])
    log = world / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*as_user(user), *command], cwd=work, env=environment, stdout=file, stderr=file
        )
    try:
        yield Container(process, port, environment, work, log)
        assert sorted(work.rglob("*")) == before
    finally:
        process.kill()
        process.wait()
        world.chmod(0o777)


def test_the_entry_point_serves_as_an_unprivileged_user_who_may_write_only_to_tmp(
    container: Container, project: Project
):
    address = f"http://127.0.0.1:{container.port}"
    check = of_kind(stages()[-1], "HEALTHCHECK")[0].words
    check = [word.replace("5001", str(container.port)) for word in check]
    health = [1]
    while health[-1] != 0:
        assert container.process.poll() is None and len(health) < 300, container.log.read_text()
        time.sleep(0.1)
        result = subprocess.run(check, env=container.environment, stderr=subprocess.DEVNULL)
        health.append(result.returncode)
    assert urllib.request.urlopen(f"{address}/ping").status == 200

    image = project.folder / "data" / "test" / "COVID19" / "phantom-001.jpg"
    for path in ("classify", "explain"):
        request = urllib.request.Request(
            f"{address}/{path}", image.read_bytes(), {"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(request) as response:
            answer = response.read()
        if path == "classify":
            assert json.loads(answer)["predictions"][0]["label"] in ("COVID19", "NORMAL")

    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(timeout=20) == 0
    log = container.log.read_text()
    assert "Permission denied" not in log and "Traceback" not in log, log


def test_an_engine_gets_only_what_is_copied(project: Project):
    present = {path.name for path in project.folder.iterdir()}
    assert {".git", "build", "mlflow.db", "mlartifacts", "data", "tests", "conf"} <= present
    files = context(project.folder)
    named = {word for stage in stages() for step in of_kind(stage, "COPY")
             if "--from" not in step.text for word in step.words[:-1]}  # fmt: skip
    assert {name.split("/")[0] for name in files} - {"Dockerfile", ".dockerignore"} == named
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]


def test_the_install_step_uses_the_lock_and_files_that_are_copied(project: Project, tmp_path: Path):
    build = stages()[0]
    copied: list[str] = []
    installs = 0
    for step in build:
        if step.name == "COPY":
            copied += copy_step(step, project.folder, tmp_path)
        elif step.name == "RUN":
            for command in step.text.split("&&"):
                words = shlex.split(command)
                assert words[0] in ("python", "pip", "rm"), command
                if words[0] == "pip":
                    arguments = words[words.index("install") + 1 :]
                    assert "--no-cache-dir" in arguments
                    plain = [word for word in arguments if not word.startswith("-")]
                    if plain == ["."]:
                        assert "--no-deps" in arguments
                    else:
                        assert plain == ["requirements.lock"]
                        assert copied == ["requirements.lock"]  # other files do not repeat it
                    installs += 1
    assert installs == 2
    pyproject = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    needed = [pyproject["project"]["readme"], *pyproject["project"]["license-files"]]
    needed += pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [name for name in needed if not (tmp_path / name).exists()] == []


def test_the_image_is_small_and_does_not_run_as_root():
    build, final = stages()
    base = {step.words[0] for step in (build[0], final[0])}
    assert len(base) == 1
    name, _, tag = base.pop().partition(":")
    assert name == "python" and tag.endswith("-slim")
    version = tuple(map(int, tag.removesuffix("-slim").split(".")))
    assert (3, 11) <= version < (3, 14)  # as pyproject.toml says
    assert not of_kind(final, "RUN")  # so that nothing is installed beside /venv
    user, group = map(int, of_kind(final, "USER")[0].text.split(":"))
    assert user > 0 and group > 0
    assert of_kind(final, "ENTRYPOINT")[0].text.startswith('["image-classifier", "serve"')
    folders = {step.text for stage in (build, final) for step in of_kind(stage, "WORKDIR")}
    assert len(folders) == 1  # the install step links to it
