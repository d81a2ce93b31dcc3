"""Attacks on the HTTP server: after each one it answers correctly, in bounded memory.

The bound is an addition to the memory before the attacks. Four requests at once each have a body
of 32 MiB, its copy for MLflow, MLflow's text of it, the strings in this text, and an image file
decoded from them: 5 x 32 MiB. Every core decodes one image of 25 million pixels, which takes 28
bytes a pixel for a WebP with transparency (measured), the most of all formats.
"""

import json
import re
import select
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import joblib
import pytest
from limited_server import Server, assert_plain, body_of, limited_server, read_answer

from conftest import Project

READ_SECONDS, QUEUE_SECONDS = 2, 2
REQUEST = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MEGABYTES = 4 * 5 * 32 + joblib.cpu_count() * 25_000_000 * 28 / 2**20


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked") / "project"
    limits = {"read_seconds": READ_SECONDS, "queue_seconds": QUEUE_SECONDS}
    with limited_server(project, folder, **limits) as server:
        yield server


@pytest.fixture(scope="module")
def memory_before(server: Server) -> float:
    return server.megabytes()


@pytest.fixture(autouse=True)
def works_after_every_attack(server: Server, memory_before: float) -> Iterator[None]:
    """Check the server's answer after every attack, and its memory during the attack."""
    with peak_memory(server) as peak:
        yield
    assert server.answers_correctly()
    assert peak[0] < memory_before + MEGABYTES


@contextmanager
def peak_memory(server: Server) -> Iterator[list[float]]:
    """Watch a server's memory; the list contains its peak, in MiB."""
    peak, ended = [server.megabytes()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], server.megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_body_of_a_gigabyte_gets_413_before_it_is_complete(server: Server, chunked: bool):
    size, part = 2**30, bytes(2**20)
    with server.connect() as connection:
        if chunked:
            connection.sendall(REQUEST + b"Transfer-Encoding: chunked\r\n\r\n")
            part = b"100000\r\n" + part + b"\r\n"
        else:
            connection.sendall(REQUEST + b"Content-Length: %d\r\n\r\n" % size)
        sent, answered = 0, None
        with suppress(ConnectionError):  # the server disconnects a client that continues
            while sent < size:
                connection.sendall(part)
                sent += 2**20
                if answered is None and select.select([connection], [], [], 0)[0]:
                    answered = sent, read_answer(connection)
    after, (status, answer) = answered
    assert status == 413
    assert after <= 2**26  # the limit, and what is in the buffers of the connection
    assert_plain(answer)


def test_a_thousand_images_are_refused(server: Server):
    image = json.loads(server.valid)["dataframe_records"][0]
    status, answer = server.post(json.dumps({"inputs": [image] * 1000}).encode())
    assert status == 400
    assert "64 images" in answer["message"]
    status, answer = server.post(json.dumps({"inputs": [image] * 65}).encode())
    assert status == 400
    assert "65 images" in answer["message"]
    status, answer = server.post(json.dumps({"inputs": [image] * 64}).encode())
    assert status == 200
    assert len(answer["predictions"]) == 64


def test_many_questions_about_drift_at_once_are_answered_one_after_the_other(server: Server):
    image = json.loads(server.valid)["dataframe_records"][0]
    assert server.post(json.dumps({"inputs": [image] * 20}).encode())[0] == 200

    def ask(_: int) -> tuple[int, dict]:
        with server.connect() as connection:
            connection.sendall(b"GET /drift HTTP/1.1\r\nHost: x\r\n\r\n")
            return read_answer(connection)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(40)))
    assert {status for status, _ in answers} <= {200, 429}
    answer = next(answer for status, answer in answers if status == 200)
    assert answer["drifted"]  # one image, again and again
    assert answer["images"] >= 20


def png(width: int, height: int) -> bytes:
    """Return a black image of one bit a pixel; its file is much smaller than its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    packer, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row * 100) for _ in range(height // 100)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return head + frame + b"\x02\x02\x4c\x01\x00;"


def webp(width: int, height: int) -> bytes:
    bits = 0x2F | (width - 1) << 8 | (height - 1) << 22
    data = struct.pack("<Q", bits)[:5] + bytes([0x88, 0x88, 0x08, 0])
    data += bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8L" + struct.pack(
        "<I", len(data)
    ) + data  # fmt: skip


def tiff(width: int, height: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 8}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(png(30_000, 30_000), id="png"),
        pytest.param(png(12_000, 12_000), id="a png that Pillow accepts"),
        pytest.param(gif(30_000, 30_000), id="gif"),
        pytest.param(webp(16_383, 16_383), id="webp"),
        pytest.param(tiff(30_000, 30_000), id="tiff"),
        pytest.param(tiff(12_000, 12_000), id="a tiff that Pillow accepts"),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(server: Server, bomb: bytes):
    status, answer = server.post(body_of(*[bomb] * 8))
    assert status == 400
    assert "more than 25000000 pixels" in answer["message"]
    assert_plain(answer)


def test_a_jpeg_of_a_thousand_scans_is_refused(server: Server):
    content = b"\xff\xd8\xff\xc2\0\x0b\x08\0\x10\0\x10\1\1\x11\0" + b"\xff\xda\0\6\0\0\0\0" * 1000
    status, answer = server.post(body_of(content))
    assert status == 400
    assert "scans" in answer["message"]


def test_postscript_is_never_opened(server: Server):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
    status, answer = server.post(body_of(content))
    assert status == 400
    assert "not an image file" in answer["message"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"inputs": [{"image": "%%%"}]}', id="not base64"),
        pytest.param(b'{"inputs": [{"image": "AAAAA"}]}', id="base64 without its end"),
        pytest.param(b'{"inputs": [{"image": ""}]}', id="an empty image"),
        pytest.param(b"[" * 100_000, id="a hundred thousand brackets"),
        pytest.param(b'{"inputs":' * 100_000, id="a hundred thousand braces"),
        pytest.param(b'{"inputs": ' + b"[" * 200 + b"]" * 200 + b"}", id="two hundred brackets"),
        pytest.param(
            b"{" + b",".join(b'"%d":0' % number for number in range(10**6)) + b"}",
            id="a million keys",
        ),
        pytest.param(b'{"inputs": [{"image": 5}]}', id="a number"),
        pytest.param(b'{"inputs": [{"image": NaN}]}', id="not a number"),
        pytest.param(b'{"inputs": [{"image": null}]}', id="null"),
        pytest.param(b'{"inputs": [{"image": {"image": "x"}}]}', id="an object"),
        pytest.param(b'{"inputs": [{"image": "x", "more": "x"}]}', id="another column"),
        pytest.param(b'{"inputs": [{"image": "\xff\xfe"}]}', id="wrong UTF-8"),
        pytest.param('{"inputs": [{"image": "é"}]}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"inputs": [{"image": "\\ud800"}]}', id="half a surrogate pair"),
        pytest.param(b'{"inputs": [{"image": "\\u0000"}]}', id="a zero byte"),
        pytest.param(b'{"inputs": [{"image": "x"}], "params": []}', id="parameters in a list"),
        pytest.param(b'{"inputs": [{"image": "x"}], "params": {"threshold": NaN}}', id="NaN"),
        pytest.param(b'{"messages": [{"role": "user"}]}', id="a chat"),
        pytest.param(b'{"inputs": 1' + b"0" * 10**6 + b"}", id="a number of a million digits"),
        pytest.param(b" " * 2**25, id="nothing but spaces"),
        pytest.param(b"\x00" * 2**25, id="nothing but zero bytes"),
        pytest.param(b"{\"inputs\": [{\"image\": \"" + b"A" * 2**24, id="a text without an end"),
        pytest.param(b'{"dataframe_split": null}', id="a form without an image"),
        pytest.param(b"", id="nothing"),
    ],
)  # fmt: skip
def test_an_invalid_body_gets_a_plain_400(server: Server, body: bytes):
    status, answer = server.post(body)
    assert status == 400
    assert_plain(answer)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /redoc HTTP/1.1", 404),
        (b"GET /static-offline-docs/../../../etc/passwd HTTP/1.1", 404),
        (b"GET /static-offline-docs/%2e%2e/__init__.py HTTP/1.1", 404),
        (b"POST /classify HTTP/1.1", 415),
        (b"POST /classify HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 5", 415),
        (b"GET /../../etc/passwd HTTP/1.1", 404),
        (b"GET /%2e%2e/%00 HTTP/1.1", 404),
        (b"GET /invocations HTTP/1.1", 405),
        (b"DELETE /ping HTTP/1.1", 405),
        (b"POST /invocations HTTP/1.1", 415),
        (b"POST /invocations HTTP/1.1\r\nContent-Type: text/csv\r\nContent-Length: 5", 415),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: -1", 400),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"\x16\x03\x01 a TLS greeting", 400),
    ],
)
def test_an_invalid_request_gets_a_plain_error(server: Server, line: bytes, status: int):
    with server.connect() as connection:
        with suppress(ConnectionError):
            connection.sendall(line + b"\r\nHost: x\r\n\r\n")
        found, answer = read_answer(connection)
    assert found == status
    assert_plain(answer)


def test_a_health_check_may_be_head(server: Server):
    with server.connect() as connection:
        connection.sendall(b"HEAD /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


def test_an_image_in_another_form_than_a_text_is_told_what_to_send(server: Server):
    for image in ({"b64": "AAAA"}, [1, 2, 3], None):
        status, answer = server.post(json.dumps({"inputs": [{"image": image}]}).encode())
        assert status == 400
        assert "send one text for each image: the base64 of an image file" in answer["message"]
    status, answer = server.post(json.dumps({"inputs": [{"image": [1] * 9999}]}).encode())
    assert (status, "not lists of bytes or pixels" in answer["message"]) == (400, True)


def test_endless_headers_close_the_connection(server: Server):
    with server.connect() as connection, suppress(ConnectionError):
        connection.sendall(b"GET /ping HTTP/1.1\r\nX: ")
        for _ in range(1000):
            connection.sendall(b"x" * 2**20)
        raise AssertionError("a gigabyte of headers was read")


def test_slow_clients_get_408_and_do_not_delay_others(server: Server):
    beginnings = {
        "headers": b"POST /invoc",
        "nothing": b"",
        "body": REQUEST + b"Content-Length: 1000\r\n\r\n{",
        "chunks": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    }
    slow = [(name, server.connect()) for name in beginnings for _ in range(20)]
    for name, connection in slow:
        connection.sendall(beginnings[name])
    assert server.answers_correctly()  # while their connections are open
    for _ in range(4 * READ_SECONDS):  # a byte now and then does not extend the limit
        time.sleep(0.25)
        for name, connection in slow:
            with suppress(ConnectionError):
                connection.sendall({"headers": b"x", "chunks": b"1\r\n \r\n"}.get(name, b""))
    for _, connection in slow:
        with connection:
            status, answer = read_answer(connection)
            assert status == 408
            assert_plain(answer)


def test_an_idle_connection_is_closed(server: Server):
    with server.connect() as idle, server.connect() as half:
        for connection in (idle, half):
            connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\n")
            connection.sendall(b"Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")
            assert read_answer(connection)[0] == 400
        half.sendall(b"GET /vers")
        assert idle.recv(100) == b""
        assert read_answer(half)[0] == 408


def test_half_closed_and_incomplete_requests_do_no_harm(server: Server):
    request = REQUEST + b"Content-Length: %d\r\n\r\n" % len(server.valid) + server.valid
    for part in (len(request), len(request) // 2, 60, 0):
        for end in (socket.SHUT_WR, socket.SHUT_RDWR):
            with server.connect() as connection:
                connection.sendall(request[:part])
                connection.shutdown(end)
                with suppress(ConnectionError):
                    connection.recv(1000)


def test_pipelined_requests_are_answered_in_order_until_an_invalid_one(server: Server):
    request = REQUEST + b"Content-Length: %d\r\n\r\n" % len(server.valid) + server.valid
    with server.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(request * 3 + b"\x00garbage\r\n\r\n")
        statuses = re.findall(rb"HTTP/1.1 (\d{3})", answers.read())
    assert statuses == [b"200", b"200", b"200", b"400"]


def test_a_busy_server_queues_requests_then_answers_429_and_still_reports_its_version(
    server: Server,
):
    heavy = body_of(*[png(4_900, 4_900)] * 12)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.post, heavy) for _ in range(8)]
        with server.connect() as connection:
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        statuses = Counter(answer.result()[0] for answer in answers)
    assert statuses.keys() == {200, 429}


def flood(server: Server, clients: int, seconds: float, body: bytes) -> Counter:
    """Let many clients send requests, one after the other; return the count of each status."""
    end, statuses = time.monotonic() + seconds, Counter()

    def client() -> None:
        while time.monotonic() < end:
            try:
                status, answer = server.post(body)
            except ConnectionError:
                status = None
            else:
                if status != 200:
                    assert_plain(answer)
            statuses[status] += 1

    with ThreadPoolExecutor(clients) as pool:
        for result in [pool.submit(client) for _ in range(clients)]:
            result.result()
    return statuses


def test_two_hundred_clients_at_once_get_200_or_429(server: Server):
    statuses = flood(server, 200, 3, server.valid)
    assert statuses.keys() <= {200, 429}
    assert statuses[200] > 200


@pytest.mark.slow
def test_two_hundred_clients_for_a_minute_do_not_harm_the_server(server: Server):
    statuses = flood(server, 200, 60, server.valid)
    assert statuses.keys() <= {200, 429}
    assert statuses[200] > 200


@pytest.mark.slow
def test_two_hundred_clients_with_the_largest_bodies_stay_below_the_memory_bound(server: Server):
    large = b'{"inputs": [{"image": "' + b"A" * (2**25 - 30) + b'"}]}'
    statuses = flood(server, 200, 20, large)
    assert statuses.keys() <= {400, 408, 429, None}
    assert statuses[400] > 0
