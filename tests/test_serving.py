"""One model, three ways to ask it: HTTP, the command line, and Keras itself."""

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from PIL import Image

from conftest import Project, post, running_server
from image_classifier.config import compose
from image_classifier.data.images import Rendering, decode

MODEL = "models:/synthetic-xray-classifier@champion"


@pytest.fixture(scope="module")
def url(project: Project) -> Iterator[str]:
    command = ["mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local"]
    with running_server(command, "ping", project) as address:
        yield address


def one(content: bytes | str) -> dict:
    text = content if isinstance(content, str) else base64.b64encode(content).decode()
    return {"dataframe_records": [{"image": text}]}


@pytest.fixture(scope="module")
def images(project: Project) -> list[Path]:
    """Test images of both classes, the messy ones among them."""
    return sorted((project.folder / "data" / "test").glob("*/phantom-00*"))


def test_http_command_line_and_keras_agree(project: Project, url: str, images: list[Path]):
    records = [{"image": base64.b64encode(path.read_bytes()).decode()} for path in images]
    status, answer = post(url, {"dataframe_records": records})
    assert status == 200
    served = np.array([p["probabilities"]["COVID19"] for p in answer["predictions"]])

    output = project.command("predict", "--csv", *map(str, images))
    table = list(csv.DictReader(io.StringIO(output[output.index("path,label,") :])))
    printed = np.array([float(row["p_COVID19"]) for row in table])
    assert [row["path"] for row in table] == [str(path) for path in images]
    assert [row["label"] for row in table] == [p["label"] for p in answer["predictions"]]

    model = keras.models.load_model(project.folder / "build/train/model/model.keras")
    pixels = np.stack([decode(path, Rendering(48, 48, 3)) for path in images])
    direct = model.predict(pixels, verbose=0)[:, 0]
    assert served == pytest.approx(direct, abs=1e-5)
    assert printed == pytest.approx(direct, abs=1e-5)
    threshold = project.read("build/evaluate/report.json")["threshold"]
    for prediction, probability in zip(answer["predictions"], direct, strict=True):
        assert prediction["label"] == ("COVID19" if probability >= threshold else "NORMAL")
        assert prediction["probability"] == prediction["probabilities"][prediction["label"]]


def test_a_request_can_have_its_own_threshold(project: Project, url: str, images: list[Path]):
    body = one(images[0].read_bytes())
    for threshold, label in ((0.0, "COVID19"), (1.0, "NORMAL")):
        status, answer = post(url, body | {"params": {"threshold": threshold}})
        assert (status, answer["predictions"][0]["label"]) == (200, label)
        picture = str(images[0])
        output = project.command("predict", picture, "--csv", "--threshold", str(threshold))
        assert f"{picture},{label}," in output
    for wrong in (2, -1, "x"):
        status, answer = post(url, body | {"params": {"threshold": wrong}})
        assert status == 400
        assert "threshold" in answer["message"]
    assert post(url, body)[0] == 200


def test_every_input_form_of_the_scoring_server_works(url: str, images: list[Path]):
    text = base64.b64encode(images[0].read_bytes()).decode()
    answers = [
        post(url, body)[1]["predictions"][0]
        for body in (
            {"dataframe_records": [{"image": text}]},
            {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
            {"inputs": [{"image": text}]},
            {"inputs": {"image": [text]}},
        )
    ]
    assert all(answer == answers[0] for answer in answers)


def test_base64_as_a_browser_writes_it_gets_the_same_answer(url: str, images: list[Path]):
    text = base64.b64encode(images[0].read_bytes()).decode()
    plain = post(url, one(text))
    assert plain[0] == 200
    assert post(url, one(f"data:image/jpeg;base64,{text.rstrip('=')}\n")) == plain
    status, answer = post(url, one("/tmp/x.png"))
    assert (status, "a path: the server does not read files" in answer["message"]) == (400, True)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a text file", one(b"hello")),
        ("an empty string", one("")),
        ("no base64", one("%%%")),
        ("null", {"dataframe_records": [{"image": None}]}),
        ("a number", {"dataframe_records": [{"image": 5}]}),
        ("a missing column", {"dataframe_records": [{"picture": "x"}]}),
        ("no JSON object", []),
        ("base64 without its end", one("AAAAA")),
        ("other letters", one("é")),
        ("a list", {"dataframe_records": [{"image": ["x"]}]}),
        ("not a number", {"dataframe_records": [{"image": float("nan")}]}),
        ("brackets", {"inputs": [[[[[[]]]]]]}),
    ],
)
def test_a_bad_request_gets_a_plain_400(url: str, name: str, body: object):
    status, answer = post(url, body)
    assert status == 400, name
    assert "stack_trace" not in answer
    assert "Traceback" not in json.dumps(answer)


def test_a_truncated_jpeg_gets_a_plain_400(url: str, images: list[Path]):
    content = images[0].read_bytes()
    status, answer = post(url, one(content[: len(content) // 2]))
    assert status == 400
    assert "a part of it is missing: the file is cut off" in answer["message"]
    assert post(url, one(content))[0] == 200


def test_mlflows_own_server_keeps_the_limits_on_images(url: str, images: list[Path]):
    image = {"image": base64.b64encode(images[0].read_bytes()).decode()}
    status, answer = post(url, {"dataframe_records": [image] * 65})
    assert (status, "send at most 64" in answer["message"]) == (400, True)
    assert len(post(url, {"dataframe_records": [image] * 64})[1]["predictions"]) == 64

    # a black image of 36 million pixels in 5 kB
    bomb = io.BytesIO()
    Image.new("1", (6_000, 6_000)).save(bomb, "PNG", optimize=True)
    status, answer = post(url, one(bomb.getvalue()))
    assert (status, "6000 x 6000, more than 25000000 pixels" in answer["message"]) == (400, True)

    status, answer = post(url, one(base64.b64encode(bytes(2**24 + 3)).decode()))
    assert (status, "more than 16777216 bytes" in answer["message"]) == (400, True)
    assert post(url, {"dataframe_records": [image]})[0] == 200


def test_the_limits_stored_with_a_model_are_those_of_the_settings(project: Project):
    stored = next((project.folder / "mlartifacts").rglob("limits.json"))
    composed = compose.config_of().serving
    assert json.loads(stored.read_text()) == composed.image_limits
    # MLflow's comparison of runs would show them as parameters, some of them twice
    client = mlflow.MlflowClient(project.store)
    run = client.get_run(project.read("build/train/run.json")["run_id"])
    assert set(run.data.params) <= set(compose.flatten(compose.config_of()))
