"""Generated request bodies: almost valid ones, and valid ones with changed bytes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limited_server import Server, assert_plain, limited_server

from conftest import Project

FORMS = ["dataframe_records", "dataframe_split", "inputs", "instances"]
EXAMPLES = 300

# the examples are the same in every run
SOME = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(SOME, max_examples=20 * EXAMPLES)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["image", "VALID", "data:image/png;base64,VALID", "VALID VALID", "VALID="])
)
keys = st.sampled_from(["image", "columns", "data", "index", "threshold", *FORMS]) | st.text(
    max_size=4
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.fixed_dictionaries({"image": scalars}, optional={"image2": scalars}), max_size=3)
tables = st.fixed_dictionaries(
    {},
    optional={
        "columns": values | st.just(["image"]),
        "data": values | st.lists(st.lists(scalars, max_size=2), max_size=3),
        "index": values,
    },
)
columns = st.fixed_dictionaries({"image": values | st.lists(scalars, max_size=3)})
almost_valid = st.dictionaries(
    st.sampled_from(FORMS), rows | tables | columns | values, min_size=1, max_size=2
) | st.fixed_dictionaries(
    {"inputs": rows | columns}, optional={"params": values | st.dictionaries(keys, values)}
)
changes = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=4)), max_size=6)


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with limited_server(project, tmp_path_factory.mktemp("fuzzed") / "project") as server:
        yield server


def check(server: Server, body: bytes) -> None:
    """Fail unless a body gets predictions, or an error of the client, 4xx."""
    status, answer = server.post(body)
    if status == 200:
        assert set(answer) == {"predictions"}
    else:
        assert 400 <= status < 500, (status, answer, body[:300])
        assert_plain(answer)


def with_image(server: Server, value: Any) -> bytes:
    image = json.loads(server.valid)["dataframe_records"][0]["image"]
    return json.dumps(value).replace("VALID", image).encode()


def changed(body: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Return a body with edits: each is a place from 0 to 1, bytes to remove, and bytes to add."""
    for place, removed, added in edits:
        start = int(place * len(body))
        body = body[:start] + added + body[start + removed :]
    return body


def test_an_almost_valid_body_is_classified_or_refused(server: Server):
    @SOME
    @given(almost_valid)
    def run(value: Any) -> None:
        check(server, with_image(server, value))

    run()
    assert server.answers_correctly()


def test_a_body_with_changed_bytes_is_classified_or_refused(server: Server):
    @SOME
    @given(changes)
    def run(edits: list[tuple[float, int, bytes]]) -> None:
        check(server, changed(server.valid, edits))

    run()
    assert server.answers_correctly()


@pytest.mark.slow
def test_thousands_of_generated_bodies_are_classified_or_refused(server: Server):
    @MANY
    @given(almost_valid, changes)
    def run(value: Any, edits: list[tuple[float, int, bytes]]) -> None:
        check(server, with_image(server, value))
        check(server, changed(with_image(server, value), edits))
        check(server, changed(server.valid, edits))

    run()
    assert server.answers_correctly()
