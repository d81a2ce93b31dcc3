"""Git hosts that fail: fetch ends in time, says what to do, and keeps the last dataset."""

import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from image_classifier.config import compose
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch


def fetch_from(url: str, **dataset: object) -> None:
    composed = compose.compose(["dataset=git", "dataset.name=pets", "dataset.url=placeholder"])
    values = compose.OmegaConf.to_container(composed, resolve=True)
    values["dataset"].update({"url": url, "timeout_seconds": 60.0, **dataset})
    fetch(compose.validate(values))


@pytest.fixture(scope="module")
def git_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a `git daemon` with a dataset of 2 MB, pets."""
    folder = tmp_path_factory.mktemp("git")
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "pets" / label).mkdir(parents=True)
        (folder / "pets" / label / "1.png").write_bytes(generator.bytes(1_000_000))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=x"]):
        subprocess.run([*git, *command], cwd=folder / "pets", check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--export-all", f"--base-path={folder}", "--listen=127.0.0.1",
         f"--port={port}", "--reuseaddr"],
        start_new_session=True,
    )  # fmt: skip
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    else:
        pytest.skip("git daemon is not installed here")
    yield port
    daemon.terminate()
    daemon.wait(timeout=30)


@contextmanager
def cutting_proxy(port: int, after: int, cuts: int) -> Iterator[tuple[int, list[int]]]:
    """Run a proxy that closes its first `cuts` connections after this many bytes of the answer.

    Yields its port, and a list with the bytes of the answer on each connection.
    """
    sent: list[int] = []

    def serve(client: socket.socket, limit: float) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=forward, args=(client, server), daemon=True).start()
            sent.append(0)
            place = len(sent) - 1
            try:
                while sent[place] < limit and (data := server.recv(65536)):
                    client.sendall(data)
                    sent[place] += len(data)
            except OSError:
                pass
            finally:
                client.shutdown(socket.SHUT_RDWR)

    def forward(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    def accept() -> None:
        for number in range(100):
            try:
                client, _ = listener.accept()
            except OSError:
                return
            limit = after if number < cuts else float("inf")
            threading.Thread(target=serve, args=(client, limit), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], sent


def files_in_build() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in paths.BUILD.rglob("*") if p.is_file()}


def test_a_connection_that_breaks_once_is_retried(empty_project: Path, git_server: int):
    with cutting_proxy(git_server, after=300_000, cuts=1) as (port, sent):
        fetch_from(f"git://127.0.0.1:{port}/pets")
    assert len(sent) == 2
    assert sent[1] > 2_000_000
    assert sum(path.is_file() for path in paths.RAW.rglob("*")) == 2


def test_fetch_gives_up_on_a_connection_that_always_breaks_and_keeps_the_last_dataset(
    empty_project: Path, git_server: int
):
    fetch_from(f"git://127.0.0.1:{git_server}/pets")
    before = files_in_build()
    with (
        cutting_proxy(git_server, after=300_000, cuts=99) as (port, sent),
        pytest.raises(InputError, match=r"after 3 attempts: .*Check dataset\.url"),
    ):
        fetch_from(f"git://127.0.0.1:{port}/pets")
    assert len(sent) == 3
    assert files_in_build() == before
    assert {path.name for path in paths.BUILD.iterdir()} == {
        "raw", "labels.csv", "not_used.csv", "fetch.json"
    }  # fmt: skip


def test_an_unreachable_host_is_reported(empty_project: Path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InputError, match=r"after 3 attempts: .*onnect.*Check dataset\.url"):
        fetch_from(f"http://127.0.0.1:{port}/pets.git")
    assert not paths.RAW.exists()


@pytest.mark.parametrize("scheme", ["git", "http"])
def test_fetch_gives_up_in_time_on_a_host_that_sends_nothing(empty_project: Path, scheme: str):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/pets.git"
        with pytest.raises(InputError, match=r"dataset\.timeout_seconds=2.*Check the address"):
            fetch_from(url, timeout_seconds=2.0)
        silent.settimeout(5)
        client, _ = silent.accept()
        client.settimeout(5)
        while client.recv(65536):  # ends when the peer closes the connection: git was killed, too
            pass
    assert list(paths.BUILD.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, r"\(fatal: Authentication failed"), (404, r"\(fatal: repository .* not found"),
     (503, "after 3 attempts: .*503")],
)  # fmt: skip
def test_an_http_error_is_reported_and_retried_only_if_it_may_be_temporary(
    empty_project: Path, status: int, message: str, monkeypatch: pytest.MonkeyPatch
):
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(status)
            self.send_header("WWW-Authenticate", 'Basic realm="pets"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")  # it may contain a credential helper
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=rf"{message}.*your permission to read the repository"):
            fetch_from(f"http://127.0.0.1:{server.server_port}/pets.git")
        server.shutdown()
    assert len(requests) <= 3


def test_a_missing_revision_is_reported_without_another_attempt(
    empty_project: Path, git_server: int
):
    with (
        cutting_proxy(git_server, after=0, cuts=0) as (port, sent),
        pytest.raises(InputError, match=r"v9.*couldn't find remote ref v9.*dataset\.revision"),
    ):
        fetch_from(f"git://127.0.0.1:{port}/pets", revision="v9")
    assert len(sent) == 1


def test_a_commit_is_found_by_its_hash_and_by_the_beginning_of_its_hash(
    empty_project: Path, git_server: int
):
    url = f"git://127.0.0.1:{git_server}/pets"
    listed = subprocess.run(["git", "ls-remote", url, "HEAD"], capture_output=True, text=True)
    for revision in (listed.stdout[:40], listed.stdout[:9]):
        fetch_from(url, revision=revision)
        assert listed.stdout[:40] in paths.FETCHED.read_text()


def test_ssh_never_asks_for_input(empty_project: Path, monkeypatch: pytest.MonkeyPatch):
    """A fake ssh prints its arguments; a real one could wait for a password."""
    program = empty_project / "bin/ssh"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "fatal: called with $*" >&2\nexit 255\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("GIT_SSH", "GIT_SSH_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="called with -o BatchMode=yes"):
        fetch_from("git@127.0.0.1:pets.git")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -o MyOwn=yes")
    with pytest.raises(InputError, match="called with -o MyOwn=yes"):
        fetch_from("git@127.0.0.1:pets.git")
