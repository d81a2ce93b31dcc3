"""Stored model files are verified before their code runs, and none of them is a pickle."""

import hashlib
import io
import json
import marshal
import os
import pickle
import pickletools
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import mlflow
import pytest

from conftest import Project, copy_of
from image_classifier.errors import InputError
from image_classifier.tracking import verified_models

NAME = "synthetic-xray-classifier"
MODEL = f"models:/{NAME}@champion"
SERVE = [sys.executable, "-m", "image_classifier", "serve"]


@pytest.fixture
def stored(project: Project, tmp_path: Path) -> Iterator[tuple[Project, Path]]:
    """A copy of the project, of what serving needs, and the folder of its stored model."""
    copy = copy_of(project, tmp_path / "project", ".git", ".dvc", "build")
    place = mlflow.MlflowClient(copy.store).get_model_version_download_uri(NAME, "1")
    yield copy, Path(place.removeprefix("file://"))


def change_weights(folder: Path) -> None:
    weights = folder / "artifacts" / "model" / "model.keras"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def change_code(folder: Path) -> None:
    code = folder / "pyfunc_model.py"
    code.write_text("print('THIS RAN')\n" + code.read_text())


def change_package(folder: Path) -> None:
    package = folder / "code" / "image_classifier" / "data" / "images.py"
    package.write_text("print('THIS RAN')\n" + package.read_text())


def add_a_module(folder: Path) -> None:
    (folder / "code" / "pandas.py").write_text("print('THIS RAN')\n")


def add_a_link(folder: Path) -> None:
    (folder / "code" / "more").symlink_to(folder / "code" / "image_classifier")


def remove_a_file(folder: Path) -> None:
    (folder / "artifacts" / "model" / "classifier.json").unlink()


def truncate_a_file(folder: Path) -> None:
    os.truncate(folder / "artifacts" / "model" / "model.keras", 1000)


@pytest.mark.parametrize(
    "damage",
    [
        change_weights,
        change_code,
        change_package,
        add_a_module,
        add_a_link,
        remove_a_file,
        truncate_a_file,
    ],
)
def test_a_version_whose_files_changed_is_not_loaded(
    stored: tuple[Project, Path],
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    project, folder = stored
    damage(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    with pytest.raises(InputError, match=f"models:/{NAME}/1 was not loaded.*{folder}"):
        verified_models.load_classifier(MODEL)
    assert "THIS RAN" not in capfd.readouterr().out


def test_predict_refuses_changed_files_without_a_traceback(stored: tuple[Project, Path]):
    project, folder = stored
    change_weights(folder)
    image = str(next((project.folder / "data").rglob("*.jpg")))
    output = project.command("predict", image, code=1)
    assert f"models:/{NAME}/1 was not loaded" in output
    assert str(folder) in output
    assert "Traceback" not in output


def test_the_server_does_not_start_on_changed_files(stored: tuple[Project, Path]):
    project, folder = stored
    change_code(folder)
    output = project.command("serve", code=1)
    assert f"models:/{NAME}/1 was not loaded" in output
    assert "THIS RAN" not in output
    assert "Traceback" not in output


def test_bytecode_in_the_store_is_never_run(
    stored: tuple[Project, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    project, folder = stored
    source = folder / "pyfunc_model.py"
    facts = source.stat()
    code = compile("print('THIS RAN')\n" + source.read_text(), str(source), "exec")
    # Python would load this bytecode instead of the source: it has the same time and size
    numbers = [0, int(facts.st_mtime), facts.st_size]
    head = MAGIC_NUMBER + b"".join(number.to_bytes(4, "little") for number in numbers)
    compiled = folder / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(head + marshal.dumps(code))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    assert verified_models.load_classifier(MODEL)[0].metadata.classes == ["NORMAL", "COVID19"]
    assert "THIS RAN" not in capfd.readouterr().out


def test_a_version_without_a_digest_is_refused_until_its_tag_is_set(
    stored: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch
):
    project, _ = stored
    client = mlflow.MlflowClient(project.store)
    digest = client.get_model_version(NAME, "1").tags["model_sha256"]
    client.delete_model_version_tag(NAME, "1", "model_sha256")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    with pytest.raises(InputError, match=f"no tag model_sha256.*set its tag .* to {digest}"):
        verified_models.load_classifier(MODEL)
    client.set_model_version_tag(NAME, "1", "model_sha256", digest)
    assert verified_models.load_classifier(f"models:/{NAME}/1")[0].metadata.height == 48


def test_a_version_of_another_release_is_refused_with_what_helps(
    stored: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch
):
    project, folder = stored
    metadata = folder / "artifacts" / "model" / "classifier.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"colour": "sepia"}))
    client = mlflow.MlflowClient(project.store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    with pytest.raises(InputError, match="are not what was registered") as refused:
        verified_models.load_classifier(MODEL)
    digest = re.search("SHA-256 ([0-9a-f]{64})", str(refused.value))[1]
    client.set_model_version_tag(NAME, "1", "model_sha256", digest)
    with pytest.raises(InputError, match=r"by another version of this package.*colour.*dvc repro"):
        verified_models.load_classifier(MODEL)


@pytest.mark.parametrize("address", ["runs:/abc/model", "build/train/model", "models:/m-1/x"])
def test_an_address_that_is_not_a_registered_version_is_refused(address: str):
    with pytest.raises(InputError, match="models:/NAME/VERSION or models:/NAME@ALIAS"):
        verified_models.load_classifier(address)


def test_mlflows_own_server_refuses_damaged_weights(stored: tuple[Project, Path]):
    project, folder = stored
    change_weights(folder)
    code = f"import mlflow; mlflow.pyfunc.load_model({str(folder)!r})"
    output = project.python("-c", code, code=1)
    assert "model.keras is damaged" in output


def test_no_stored_file_is_a_pickle(project: Project):
    files = [path for path in (project.folder / "mlartifacts").rglob("*") if path.is_file()]
    assert [path for path in files if path.name == "model.keras"]
    found = [
        f"{path}: {name}" for path in files for name, data in contents(path) if is_pickle(data)
    ]
    assert found == []


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and bytes of a file and, if it is an archive, of its members."""
    data = path.read_bytes()
    yield path.name, data
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)


def is_pickle(data: bytes) -> bool:
    """Return whether the bytes are a complete pickle, of any protocol."""
    try:
        operations = [operation.name for operation, _, _ in pickletools.genops(data)]
        pickletools.dis(data, io.StringIO())  # raises when the operations do not fit together
    except Exception:
        return False
    # a text can look like a pickle of two operations; a useful pickle has more
    return operations[-1:] == ["STOP"] and (operations[0] == "PROTO" or len(operations) > 2)


def test_pickles_are_detected(tmp_path: Path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.zip").unlink(missing_ok=True)
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("weights.bin", pickle.dumps({"a": [1, 2]}, protocol))
        assert any(is_pickle(data) for _, data in contents(tmp_path / "x.zip"))


def test_the_models_metadata_contain_the_digest_of_its_weights(project: Project):
    folder = project.folder / "build" / "train" / "model"
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    assert json.loads((folder / "classifier.json").read_text())["weights_sha256"] == digest


def test_the_servers_limits_do_not_belong_to_a_training(project: Project):
    client = mlflow.MlflowClient(project.store)
    run = client.get_run(project.read("build/train/run.json")["run_id"])
    assert not [name for name in run.data.params if name.startswith("serving")]
    before = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(before.replace("images: 64", "images: 9"))
    try:
        assert "up to date" in project.run("dvc", "status")
    finally:
        (project.folder / "params.yaml").write_text(before)


def test_help_imports_neither_tensorflow_nor_mlflow(project: Project):
    code = (
        "import runpy, sys; sys.argv = ['image-classifier', 'serve', '--help']\n"
        "try: runpy.run_module('image_classifier', run_name='__main__')\n"
        "except SystemExit: print({'tensorflow', 'mlflow'} & set(sys.modules))"
    )
    output = project.run(sys.executable, "-c", code)
    assert "--port" in output
    assert "set()" in output


def test_a_port_in_use_is_reported_in_one_line(project: Project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        output = project.command("serve", "--port", port, code=1)
    assert output.strip().splitlines() == [
        f"serve: 127.0.0.1:{port} cannot be opened: Address already in use. "
        f"Choose another --port or --host."
    ]


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_server_without_output(
    stored: tuple[Project, Path], sent: signal.Signals
):
    project, _ = stored
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*SERVE, "--port", str(port)], cwd=project.folder, text=True,
        env=project.environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith(f"Serving models:/{NAME}/1 on http://127.0.0.1:{port}: at most 64 ")
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        process.send_signal(sent)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (output, "Traceback" in errors) == ("", False)
