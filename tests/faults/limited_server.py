"""Runs `image-classifier serve` as a process, and sends any bytes to it."""

import base64
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from conftest import Project, copy_of, running_server

JSON = {"Content-Type": "application/json"}


@dataclass
class Server:
    """A running server.

    Attributes:
        port: Its port on 127.0.0.1.
        process: Its process.
        valid: The body of a valid request.
        project: The copy of the project in which it runs.
        answer: The answer to this request before any attack.
    """

    port: int
    process: psutil.Process
    valid: bytes
    project: Project
    answer: dict | None = None

    def post(self, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, dict]:
        """Send a body to /invocations; return the status and the answer, which is always JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/invocations", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def connect(self) -> socket.socket:
        """Open a connection; send nothing on it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def answers_correctly(self) -> bool:
        """Return whether the valid request gets the same answer as before the attacks."""
        return self.post(self.valid) == (200, self.answer)

    def megabytes(self) -> float:
        """Return the resident memory of the process, in MiB."""
        return self.process.memory_info().rss / 2**20


@contextmanager
def limited_server(
    project: Project, folder: Path, workers: int = 1, **settings: object
) -> Iterator[Server]:
    """Serve the champion of a copy of a project, with these settings instead of the defaults."""
    copy = copy_of(project, folder, ".git", ".dvc", "build")
    params = copy.folder / "params.yaml"
    all_settings = yaml.safe_load(params.read_text())
    all_settings["serving"] |= settings
    params.write_text(yaml.safe_dump(all_settings))
    image = copy.folder / "data" / "test" / "COVID19" / "phantom-001.jpg"
    command = [*psutil.Process().cmdline()[:1], "-m", "image_classifier", "serve"]
    command += ["--workers", str(workers)]
    with running_server(command, "ping", copy) as address:
        port = int(address.rpartition(":")[2])
        process = next(
            child for child in psutil.Process().children() if str(port) in child.cmdline()
        )
        server = Server(port, process, body_of(image.read_bytes()), copy)
        status, server.answer = server.post(server.valid)
        assert status == 200, server.answer
        yield server
    assert process.is_running() is False
    log = (copy.folder / "server.log").read_text()
    assert "Traceback" not in log, log


def body_of(*contents: bytes) -> bytes:
    """Return the body of a request with these images."""
    rows = [{"image": base64.b64encode(content).decode()} for content in contents]
    return json.dumps({"dataframe_records": rows}).encode()


def read_answer(connection: socket.socket) -> tuple[int, dict]:
    """Read an answer from a connection; return its status and its JSON."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def assert_plain(answer: dict) -> None:
    """Fail unless an error has a short message that reveals nothing of the server's code."""
    assert set(answer) == {"error_code", "message"}
    assert 5 < len(answer["message"]) <= 500
    for internal in ("Traceback", 'File "', ".py", "/tmp", "site-packages"):
        assert internal not in answer["message"]
