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

from comparison import Row, compare, in_turn, seconds
from project import Project

from image_classifier.classifier import Classifier
from image_classifier.serving.prediction import predictions

CLIENTS = 8
# the commands of the two servers, without the address of the model
OURS = [sys.executable, "-m", "image_classifier", "serve", "--model"]
MLFLOWS = ["mlflow", "models", "serve", "--env-manager", "local", "--model-uri"]


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
        json.dumps({"dataframe_records": [{"image": base64.b64encode(content).decode()}]})
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

    with server(project, OURS) as ours, server(project, MLFLOWS) as mlflows:

        def post_all(port: int, some: list[str]) -> list[float]:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            times = []
            for body in some:
                start = time.perf_counter()
                connection.request(
                    "POST", "/invocations", body, {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                response.read()
                times.append(1000 * (time.perf_counter() - start))
                if response.status != 200:
                    raise RuntimeError(f"the server answered with status {response.status}")
            connection.close()
            return times

        def median(port: int) -> float:
            return statistics.median(post_all(port, bodies))

        def clients(port: int) -> float:
            shares = [list(bodies[client::CLIENTS]) for client in range(CLIENTS)]
            with ThreadPoolExecutor(CLIENTS) as pool:
                return len(bodies) / seconds(
                    lambda: list(pool.map(partial(post_all, port), shares))
                )

        first = post_all(ours, [bodies[0]] * 10)
        single = in_turn(repeats, lambda: median(ours), median_in_process)
        many = in_turn(repeats, lambda: clients(ours), clients_in_process)
        single_behind = in_turn(repeats, lambda: median(ours), lambda: median(mlflows))
        many_behind = in_turn(repeats, lambda: clients(ours), lambda: clients(mlflows))
    return [
        compare("one HTTP prediction ÷ the same in this process", single, "ms", "≤ 1.5"),
        compare("8 HTTP clients ÷ 8 threads in this process", many, "images/s", "≥ 0.8"),
        compare("first HTTP prediction ÷ the tenth", [(first[0], first[9])], "ms", "about 1"),
        compare(
            "one HTTP prediction ÷ one by `mlflow models serve`", single_behind, "ms", "≤ 1.05"
        ),
        compare(
            "8 HTTP clients ÷ 8 clients of `mlflow models serve`", many_behind, "images/s", "≥ 0.95"
        ),
    ]
