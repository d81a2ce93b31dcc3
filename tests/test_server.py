"""`image-classifier serve`: what it answers, what it writes down, and what several processes do."""

import base64
import http.client
import io
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
from PIL import Image

from conftest import Project
from faults.limited_server import Server, assert_plain, limited_server
from image_classifier.classifier import Classifier
from image_classifier.config.compose import config_of
from image_classifier.serving.batches import Batches
from image_classifier.serving.image_service import ImageService

NAME = "synthetic-xray-classifier"
SITE = "https://example.com"
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two processes with everything that is off by default."""
    settings = {
        "batch_images": 8, "reload_seconds": 1, "cors_origins": [SITE], "access_log": True,
        "predictions_log": "predictions.jsonl",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("served") / "project"
    with limited_server(project, folder, workers=2, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def images(project: Project) -> list[Path]:
    return sorted((project.folder / "data" / "test").glob("*/phantom-00*"))


def send(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] = JPEG
) -> tuple[int, dict[str, str], bytes]:
    """Send a request; return the status, the headers and the content of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def classify(server: Server, content: bytes, query: str = "") -> tuple[dict, str]:
    """Return the prediction for one image, and the address of the version that answered."""
    status, headers, answer = send(server, "POST", f"/classify{query}", content)
    assert status == 200, answer
    (prediction,) = json.loads(answer)["predictions"]
    return prediction, headers["x-model"]


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a form as curl -F writes it, and its header."""
    content = b"".join(
        b"--XX\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + body + b"\r\n"
        for head, body in parts
    )
    return content + b"--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}


def test_an_image_gets_the_same_answer_in_every_form(server: Server, images: list[Path]):
    content = images[0].read_bytes()
    text = base64.b64encode(content).decode()
    expected, model = classify(server, content)
    assert model == f"models:/{NAME}/1"
    for body in (
        {"dataframe_records": [{"image": text}]},
        {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
        {"inputs": [{"image": text}]},
        {"inputs": {"image": [text]}},
        {"instances": [{"image": f"data:image/jpeg;base64,{text.rstrip('=')}\n"}]},
    ):
        assert server.post(json.dumps(body).encode()) == (200, {"predictions": [expected]})
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded"):
        status, _, answer = send(server, "POST", "/classify", content, {"Content-Type": kind})
        assert (status, json.loads(answer)["predictions"]) == (200, [expected])
    body, header = form(('name="image"; filename="x.jpg"', content))
    status, _, answer = send(server, "POST", "/classify", body, header)
    assert (status, json.loads(answer)["predictions"]) == (200, [expected])


def test_the_files_of_a_form_are_answered_in_their_order(server: Server, images: list[Path]):
    contents = [path.read_bytes() for path in images[:6]]
    parts = [('name="image"; filename="x"', content) for content in contents]
    body, header = form(*parts, ('name="comment"', b"not a file"))
    status, _, answer = send(server, "POST", "/classify", body, header)
    assert status == 200
    found = [prediction["probabilities"] for prediction in json.loads(answer)["predictions"]]
    alone = [classify(server, content)[0]["probabilities"] for content in contents]
    assert len(found) == 6
    for one, other in zip(found, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert len({tuple(one.values()) for one in found}) > 1


@pytest.mark.parametrize(
    ("body", "header", "says"),
    [
        (*form(('name="image"', b"x")), "has no file"),
        (form(('name="image"; filename="x"', b"x"))[0][:-20], form()[1], "cannot be read"),
        (b"", {"Content-Type": "multipart/form-data"}, "cannot be read"),
        (*form(*[('name="image"; filename="x"', b"x")] * 200), "cannot be read"),
        (*form(('name="image"; filename="x"', b"hello")), "not an image file"),
        (b"", JPEG, "not an image file"),
    ],
)
def test_a_bad_form_or_file_gets_a_plain_400(
    server: Server, body: bytes, header: dict[str, str], says: str
):
    status, _, answer = send(server, "POST", "/classify", body, header)
    assert status == 400
    assert_plain(json.loads(answer))
    assert says in json.loads(answer)["message"]


def test_a_request_can_have_its_own_threshold(server: Server, images: list[Path]):
    content = images[0].read_bytes()
    assert classify(server, content, "?threshold=0")[0]["label"] == "COVID19"
    assert classify(server, content, "?threshold=1")[0]["label"] == "NORMAL"
    for wrong in ("2", "x", "nan", ""):
        status, _, answer = send(server, "POST", f"/classify?threshold={wrong}", content)
        assert (status, "threshold" in json.loads(answer)["message"]) == (400, True)


def test_a_heat_map_the_model_and_its_card_can_be_asked_for(
    project: Project, server: Server, images: list[Path]
):
    status, headers, answer = send(server, "POST", "/explain", images[0].read_bytes())
    assert (status, headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer)) as heat_map:
        assert heat_map.size == (48, 48)
    model = json.loads(send(server, "GET", "/model")[2])
    assert model["classes"] == ["NORMAL", "COVID19"]
    assert model["has_report"] is True
    card = send(server, "GET", "/card")
    assert b"<h1>Model card: synthetic-xray-classifier/1</h1>" in card[2]
    assert b"<table>" in card[2]
    report = send(server, "GET", "/report")
    assert report[2].decode() == (project.folder / "build/evaluate/report.html").read_text()
    for page in (card, report, send(server, "GET", "/")):
        assert page[0] == 200
        assert "default-src 'self'" in page[1]["content-security-policy"]


def test_the_interface_describes_itself_without_another_site(server: Server):
    document = json.loads(send(server, "GET", "/openapi.json")[2])
    assert {"/invocations", "/classify", "/explain", "/drift", "/metrics"} <= set(document["paths"])
    text = json.dumps(document)
    parts = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert parts <= set(document["components"]["schemas"])
    page = send(server, "GET", "/docs")[2].decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert source.startswith("/")
        assert send(server, "GET", source)[0] == 200


def test_only_the_named_sites_may_ask_from_a_page(server: Server, images: list[Path]):
    for site, allowed in ((SITE, SITE), ("https://other.example", None)):
        headers = JPEG | {"Origin": site}
        _, answered, _ = send(server, "POST", "/classify", images[0].read_bytes(), headers)
        assert answered.get("access-control-allow-origin") == allowed
        asked = {
            "Origin": site, "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }  # fmt: skip
        status, answered, _ = send(server, "OPTIONS", "/classify", headers=asked)
        assert answered.get("access-control-allow-origin") == allowed
        assert status == (200 if allowed else 400)


def values(server: Server) -> dict[str, float]:
    """Return the metrics of all processes."""
    text = send(server, "GET", "/metrics")[2].decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_count_the_requests_of_all_processes(server: Server, images: list[Path]):
    before = values(server)
    for _ in range(10):
        prediction, model = classify(server, images[0].read_bytes())
    send(server, "POST", "/classify", b"hello")
    send(server, "GET", f"/{time.time()}")
    after = values(server)

    def added(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert added('classifier_requests_total{method="POST",path="/classify",status="200"}') == 10
    assert added('classifier_requests_total{method="POST",path="/classify",status="400"}') == 1
    assert added('classifier_requests_total{method="GET",path="other",status="404"}') == 1
    assert added('classifier_request_seconds_count{path="/classify"}') == 11
    label = prediction["label"]
    assert added(f'classifier_predictions_total{{label="{label}",model="{model}"}}') == 10
    assert added("classifier_batch_images_sum") == 10


def test_a_line_of_the_access_log_has_the_facts_and_nothing_of_the_image(
    server: Server, images: list[Path]
):
    headers = JPEG | {"User-Agent": 'me\\"}\u00e4 1'.encode("latin-1").decode("latin-1")}
    send(server, "POST", "/classify", images[0].read_bytes(), headers)
    printed = (server.project.folder / "server.log").read_text().splitlines()
    lines = [json.loads(line) for line in printed if line.startswith("{")]
    (line,) = (line for line in lines if line["user_agent"].startswith("me"))
    assert (line["method"], line["path"], line["status"]) == ("POST", "/classify", 200)
    assert line["client"] == "127.0.0.1"
    assert line["request_bytes"] == images[0].stat().st_size
    assert line["milliseconds"] > 0
    assert all(len(json.dumps(one)) < 500 for one in lines)


def test_images_of_one_moment_are_classified_together(project: Project, images: list[Path]):
    classifier = Classifier.load(project.folder / "build/train/model")
    pixels = [classifier.decode(path) for path in images]
    sizes: list[int] = []
    batches = Batches(classifier, 8, sizes.append)
    batches.turn.acquire()  # as if a batch was being classified
    with ThreadPoolExecutor(len(pixels)) as pool:
        found = [pool.submit(batches.classify, one[None]) for one in pixels]
        while len(batches.waiting) < len(pixels):
            time.sleep(0.01)
        batches.turn.release()
        outputs = [one.result()[0].probabilities[0] for one in found]
    assert max(sizes) == 8
    assert sum(sizes) == len(pixels)
    together = classifier.outputs(np.stack(pixels)).probabilities
    assert np.array_equal(outputs, together)

    class Broken:
        def outputs(self, pixels):
            raise ValueError("no memory")

    broken = Batches(Broken(), 8)
    for _ in range(2):  # a batch that fails blocks nothing
        with pytest.raises(ValueError, match="no memory"):
            broken.classify(pixels[0][None])


def test_the_log_of_predictions_can_be_replayed_and_tested_for_drift(
    server: Server, images: list[Path]
):
    log = server.project.folder / "predictions.jsonl"
    before = log.read_text().count("\n")
    texts = [{"image": base64.b64encode(path.read_bytes()).decode()} for path in images]
    assert server.post(json.dumps({"inputs": texts}).encode())[0] == 200
    with ThreadPoolExecutor(4) as pool:  # some of them are classified together
        list(pool.map(lambda path: classify(server, path.read_bytes(), "?threshold=0.1"), images))
    lines = log.read_text().splitlines()[before:]
    assert len(lines) == 2 * len(images)
    assert log.stat().st_mode & 0o077 == 0
    logged = server.project.folder / "some.jsonl"
    cut = lines[0][:100]  # as a full disk leaves it
    logged.write_text("\n".join([*lines, cut]) + "\n")

    folder = str(server.project.folder / "data" / "test")
    output = server.project.command("predict", "--replay", str(logged), folder)
    many = len(lines)
    assert f"{many} predictions: {many} have the same answer to the last bit, 0 another one, " in (
        output
    )
    assert "0 images were not found, 1 lines are damaged" in output
    other = json.loads(lines[0])
    other["prediction"]["probability"] = np.nextafter(other["prediction"]["probability"], 0)
    logged.write_text("\n".join([json.dumps(other), *lines[1:]]))
    output = server.project.command("predict", "--replay", str(logged), folder, code=1)
    assert f"{many - 1} have the same answer to the last bit, 1 another one" in output
    output = server.project.command("predict", "--replay", str(logged), str(images[0]), code=1)
    assert "images were not found" in output

    logged.write_text("\n".join(lines[: len(images)]))
    output = server.project.command("drift", "--log", str(logged), "--last", "20")
    assert f"{len(images)} predictions, {len(images)} of them by models:/{NAME}/1; 0 " in output
    assert "20 images, compared with" in output
    assert "No difference was found" in output


@pytest.mark.parametrize(
    "limits", [{"maximum_image_bytes": 100}, {"maximum_image_bytes": 10_000}, {"maximum_pixels": 1}]
)
def test_a_server_with_small_limits_starts(project: Project, limits: dict[str, int]):
    classifier = Classifier.load(project.folder / "build/train/model")
    service = ImageService(classifier, config_of().serving.image_limits | limits)
    service.warm_up()
    if limits != {"maximum_image_bytes": 100}:  # no JPEG is so small: nothing is classified
        assert len(service.example()) <= service.limits["maximum_image_bytes"]


def load(server: Server, content: bytes, until: threading.Event) -> Counter:
    """Let four clients ask until the event; count answers: probability, version, or the error."""
    found: Counter = Counter()

    def client() -> None:
        while not until.is_set():
            try:
                prediction, model = classify(server, content)
                # not the label: at the threshold, the last bit decides it
                found[prediction["probabilities"]["COVID19"], model] += 1
            except (OSError, http.client.HTTPException):
                found["connection lost"] += 1
            time.sleep(0.1)  # the processes that load a model need the cores too

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(client) for _ in range(4)]:
            one.result()
    return found


def test_a_new_champion_is_served_without_a_lost_request(server: Server, images: list[Path]):
    mlflow.set_tracking_uri(server.project.store)  # there MLflow looks for the version's source
    content = images[0].read_bytes()
    before = classify(server, content)[0]["probabilities"]["COVID19"]
    client = mlflow.MlflowClient(server.project.store)
    first = client.get_model_version(NAME, "1")
    # not always version 2: other tests may have registered versions in this project
    second = client.create_model_version(NAME, first.source, first.run_id, dict(first.tags))
    address = f"models:/{NAME}/{second.version}"
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(load, server, content, ended)
        client.set_registered_model_alias(NAME, "champion", str(second.version))
        try:
            wait(lambda: {classify(server, content)[1] for _ in range(12)} == {address})
        finally:
            ended.set()
        found = asking.result()
    assert "connection lost" not in found
    for answer in found:
        assert answer[0] == pytest.approx(before, abs=1e-6)
    assert {answer[1] for answer in found} == {f"models:/{NAME}/1", address}

    client.set_registered_model_alias(NAME, "champion", "1")
    version = client.get_model_version(NAME, "1")
    client.set_model_version_tag(NAME, "1", "model_sha256", "0" * 64)  # as if its files changed
    try:
        log = server.project.folder / "server.log"
        wait(lambda: "@champion cannot be loaded" in log.read_text())
        assert f"Still serving {address}" in log.read_text()
        assert classify(server, content)[1] == address
    finally:
        client.set_model_version_tag(NAME, "1", "model_sha256", version.tags["model_sha256"])


def wait(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_killed_process_is_replaced_and_no_answer_is_wrong(server: Server, images: list[Path]):
    content = images[0].read_bytes()
    expected = classify(server, content)[0]["probabilities"]["COVID19"]
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(load, server, content, ended)
        try:
            time.sleep(1)
            workers = {child.pid for child in server.process.children() if is_worker(child)}
            assert len(workers) == 2
            os.kill(min(workers), signal.SIGKILL)
            wait(lambda: new_workers(server, workers) == 1)
        finally:
            ended.set()
        found = asking.result()
    answers = [one for one in found if one != "connection lost"]
    assert answers
    for answer in answers:
        assert answer[0] == pytest.approx(expected, abs=1e-6)
    assert found["connection lost"] <= 4  # what that process was working on
    assert "ended (SIGKILL): a new one starts" in (server.project.folder / "server.log").read_text()


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


def new_workers(server: Server, old: set[int]) -> int:
    return sum(is_worker(child) and child.pid not in old for child in server.process.children())


def test_a_missing_version_is_reported_before_any_process_starts(project: Project):
    arguments = ["--workers", "2", "--port", "0", "--model", f"models:/{NAME}/99"]
    output = project.command("serve", *arguments, code=1)
    assert f"Version 99 of {NAME} does not exist, or was deleted." in output
    assert "Traceback" not in output


def test_the_processes_end_when_their_parent_is_killed(server: Server):
    workers = [child for child in server.process.children() if is_worker(child)]
    assert len(workers) == 2
    server.process.kill()  # the last test of this file: nobody answers afterwards
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
