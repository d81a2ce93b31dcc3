"""Comparisons of predictions over HTTP: with this process, and with MLflow's own server."""

import base64
import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from comparison import Row, compare, in_turn, seconds
from project import Project

from image_classifier.classifier import Classifier
from image_classifier.serving.prediction import predictions

CLIENTS = 8
STARTS = 7  # of the server, for its first prediction
# the commands of the two servers, without the address of the model
OURS = [sys.executable, "-m", "image_classifier", "serve", "--model"]
MLFLOWS = ["mlflow", "models", "serve", "--env-manager", "local", "--model-uri"]


class Way(NamedTuple):
    """How images are sent."""

    path: str
    content_type: str
    bodies: list[bytes]


@contextmanager
def server(project: Project, command: list[str]) -> Iterator[int]:
    """Serve the registered version with one of the commands; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    registered = project.read("build/evaluate/evaluated.json")
    model = f"models:/{registered['name']}/{registered['version']}"
    with (project.folder / "server.txt").open("a") as log:
        process = subprocess.Popen(
            [*command, model, "--port", str(port)],
            cwd=project.folder,
            env=project.environment,
            stdout=log,
            stderr=log,
        )
    try:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("GET", "/ping")
                connection.getresponse().read()
                break
            except OSError:
                time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait()


def measure_serving(project: Project, repeats: int) -> list[Row]:
    """Compare the median time of one client, the throughput of eight, and the first request."""
    folder = project.folder / "build"
    contents = [path.read_bytes() for path in sorted((folder / "raw").rglob("*.*"))[-100:]]
    bodies = [
        json.dumps({"dataframe_records": [{"image": base64.b64encode(content).decode()}]}).encode()
        for content in contents
    ]
    classifier = Classifier.load(folder / "train" / "model")

    def predict(content: bytes) -> None:
        pixels = classifier.decode(content)
        predictions(classifier, classifier.outputs(pixels[None]))

    def median_in_process() -> float:
        return 1000 * statistics.median(seconds(partial(predict, content)) for content in contents)

    def clients_in_process() -> float:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return len(contents) / seconds(lambda: list(pool.map(predict, contents)))

    raw = Way("/classify", "image/jpeg", contents)
    as_json = Way("/invocations", "application/json", bodies)

    def post_all(port: int, way: Way, some: slice) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        times = []
        for body in way.bodies[some]:
            start = time.perf_counter()
            connection.request("POST", way.path, body, {"Content-Type": way.content_type})
            response = connection.getresponse()
            response.read()
            times.append(1000 * (time.perf_counter() - start))
            if response.status != 200:
                raise RuntimeError(f"the server answered with status {response.status}")
        connection.close()
        return times

    def median(port: int, way: Way) -> float:
        return statistics.median(post_all(port, way, slice(None)))

    def clients(port: int, way: Way) -> float:
        with ThreadPoolExecutor(CLIENTS) as pool:
            shares = [slice(client, None, CLIENTS) for client in range(CLIENTS)]
            return len(bodies) / seconds(
                lambda: list(pool.map(partial(post_all, port, way), shares))
            )

    starts = []
    for _ in range(STARTS):
        with server(project, OURS) as ours:
            ten = [post_all(ours, raw, slice(0, 1))[0] for _ in range(10)]
            starts.append((ten[0], ten[9]))
    rows = [compare("first HTTP prediction ÷ the tenth", starts, "ms", "≤ 1.1")]
    with server(project, OURS) as ours:
        for way, name, once, many in (
            (raw, "a file", "≤ 1.25", "≥ 0.8"),
            (as_json, "JSON", "≤ 1.35", "≥ 0.7"),
        ):
            single = in_turn(repeats, partial(median, ours, way), median_in_process)
            eight = in_turn(repeats, partial(clients, ours, way), clients_in_process)
            rows += [
                compare(
                    f"one HTTP prediction, {name} ÷ the same in this process", single, "ms", once
                ),
                compare(
                    f"8 HTTP clients, {name} ÷ 8 threads in this process", eight, "images/s", many
                ),
            ]
    with server(project, [*OURS[:-1], "--workers", "2", "--model"]) as two:
        eight = in_turn(repeats, partial(clients, two, raw), clients_in_process)
        name = "8 HTTP clients, a file, 2 server processes ÷ 8 threads in this process"
        rows.append(compare(name, eight, "images/s", "≥ 0.8"))
    with server(project, OURS) as ours, server(project, MLFLOWS) as mlflows:
        single = in_turn(repeats, partial(median, ours, as_json), partial(median, mlflows, as_json))
        eight = in_turn(
            repeats, partial(clients, ours, as_json), partial(clients, mlflows, as_json)
        )
        behind = "by `mlflow models serve`"
        rows += [
            compare(f"one HTTP prediction, JSON ÷ one {behind}", single, "ms", "≤ 1"),
            compare(f"8 HTTP clients, JSON ÷ 8 answered {behind}", eight, "images/s", "≥ 1.7"),
        ]
    return rows
