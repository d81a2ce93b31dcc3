"""`image-classifier serve` as a process, and clients that speak to it as they like."""

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
    """A running server, what it answers to a good request, and the memory it has before attacks."""

    port: int
    process: psutil.Process
    good: bytes
    answer: dict | None = None

    def post(self, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, dict]:
        """Send a body to /invocations; return status and answer, which is JSON always."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/invocations", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def connect(self) -> socket.socket:
        """Return a connection on which nothing was sent."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def is_right(self) -> bool:
        """Whether a good request gets the answer that it got before the attacks."""
        return self.post(self.good) == (200, self.answer)

    def megabytes(self) -> float:
        """Return the memory the process holds."""
        return self.process.memory_info().rss / 2**20


@contextmanager
def limited_server(project: Project, folder: Path, **limits: int) -> Iterator[Server]:
    """Serve the champion of a copy of a project with other limits than the default ones."""
    copy = copy_of(project, folder)
    params = copy.folder / "params.yaml"
    settings = yaml.safe_load(params.read_text())
    settings["serving"] |= limits
    params.write_text(yaml.safe_dump(settings))
    picture = copy.folder / "data" / "test" / "COVID19" / "phantom-001.jpg"
    command = [*psutil.Process().cmdline()[:1], "-m", "image_classifier", "serve"]
    with running_server(command, "ping", copy) as address:
        port = int(address.rpartition(":")[2])
        process = next(
            child for child in psutil.Process().children() if str(port) in child.cmdline()
        )
        server = Server(port, process, body_of(picture.read_bytes()))
        status, server.answer = server.post(server.good)
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
    """Return status and JSON of the answer on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def assert_plain(answer: dict) -> None:
    """Fail unless an error says what was wrong, in short and without the server's insides."""
    assert set(answer) == {"error_code", "message"}
    assert 5 < len(answer["message"]) <= 500
    for inside in ("Traceback", 'File "', ".py", "/tmp", "site-packages"):
        assert inside not in answer["message"]
