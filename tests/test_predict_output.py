"""predict --output: CSV and Parquet, killed and repeated, from S3, and on a Ray cluster."""

import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pandas
import pyarrow.parquet as pq
import pytest

from conftest import Project, running_server
from image_classifier.__main__ import main

FILES = 2300  # three parts


@pytest.fixture(scope="module")
def many(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with 2300 files, of which one is not an image."""
    folder = tmp_path_factory.mktemp("many")
    images = sorted((project.folder / "data").rglob("*.jpg"))
    for number in range(FILES - 1):
        path = folder / f"{number % 2}" / f"{number:04}, phantom.jpg"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(images[number % len(images)])
    (folder / "0" / "1001, broken.jpg").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def whole(project: Project, many: Path) -> Path:
    """The CSV file of a run that was not killed."""
    target = many.with_name("whole.csv")
    output = predict(project, many, target, code=1)
    assert f"{target}: {FILES} files." in output
    assert "1 of them cannot be read: see the column error." in output
    assert not target.with_name("whole.csv.partial").exists()
    return target


def predict(project: Project, folder: Path | str, target: Path, *more: str, code: int = 0) -> str:
    return project.command("predict", str(folder), "--output", str(target), *more, code=code)


@pytest.fixture(scope="module")
def killed(project: Project, many: Path) -> Path:
    """The folder of a command that was killed when its first part was there."""
    target = many.with_name("killed.csv")
    words = ["-m", "image_classifier", "predict", str(many), "--output", str(target)]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=project.folder, env=project.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    work = target.with_name(f"{target.name}.partial")
    while not [*work.glob("part-??????.parquet")]:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not target.exists()
    (work / "part-000003.partial.parquet").write_text("a half")
    return work


def test_the_output_has_what_is_printed_and_a_row_for_the_unreadable_file(
    project: Project, many: Path, whole: Path
):
    with whole.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(map(str, many.rglob("*.jpg")))
    (broken,) = [row for row in rows if row["error"]]
    assert broken.pop("path").endswith("1001, broken.jpg")
    assert "not an image file" in broken.pop("error")
    assert not any(broken.values())
    chosen = [str(path) for path in sorted(many.rglob("*.jpg"))[495:505]]  # others in the batch
    printed = project.command("predict", "--csv", *chosen, code=1).splitlines()
    header = printed.index(",".join([name for name in rows[0] if name != "error"]))
    lines = [line for line in printed[header + 1 :] if line.startswith('"/')]
    with_error = whole.read_text().splitlines()
    assert len(lines) == 9
    assert [f"{line}," for line in lines] == [
        line for line in with_error if any(path in line for path in chosen) and "broken" not in line
    ]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_killed_command_goes_on_where_it_ended(
    project: Project, many: Path, whole: Path, killed: Path, tmp_path: Path, ending: str
):
    target = tmp_path / f"output.{ending}"
    shutil.copytree(killed, tmp_path / f"output.{ending}.partial")
    added = many / "0" / "0000, added later.jpg"
    added.hardlink_to(next(many.rglob("*phantom.jpg")))
    try:
        output = predict(project, many, target, code=1)
    finally:
        added.unlink()
    assert f" of {FILES} files are classified: going on" in output
    assert "1 of them cannot be read" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name]
    if ending == "csv":
        assert target.read_bytes() == whole.read_bytes()
        return
    ours, theirs = pq.read_table(target).to_pandas(), pandas.read_csv(whole)
    assert list(ours) == list(theirs)
    ours["plausible"] = ours["plausible"].map(lambda names: "|".join(names), na_action="ignore")
    pandas.testing.assert_frame_equal(ours, theirs, check_dtype=False, check_exact=True)


def test_other_settings_are_refused_by_name(
    project: Project, many: Path, killed: Path, tmp_path: Path
):
    target = tmp_path / "results.csv"
    shutil.copytree(killed, tmp_path / "results.csv.partial")
    parts = sorted(target.with_name("results.csv.partial").iterdir())
    output = predict(project, many, target, "--threshold", "0.25", code=1)
    assert "has results with the threshold 0." in output
    assert "now it is 0.25. Repeat the earlier command" in output
    settings = target.with_name("results.csv.partial") / "settings.json"
    settings.write_text(settings.read_text().replace("classifier/1", "classifier/7"))
    output = predict(project, many, target, code=1)
    assert "has results with the model models:/synthetic-xray-classifier/7" in output
    assert sorted(settings.parent.iterdir()) == parts  # nothing made is lost


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([".", "--output", "{whole}"], "whole.csv exists, and is complete"),
        ([".", "--output", "a.txt"], "ends in .csv or .parquet"),
        ([".", "nowhere", "--output", "a.csv"], "nowhere: no such file or folder"),
        (["gs://a/b", "--output", "a.csv"], "only files, folders and addresses s3://"),
        ([".", "--output", "a.csv", "--csv"], "--output excludes --csv"),
        ([".", "--on", "ray"], "--on ray needs --output"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_model_is_loaded(
    whole: Path, empty_project: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
):
    assert main(["predict", *(word.format(whole=whole) for word in words)]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in empty_project.iterdir()] == ["corrections.csv"]


def test_an_empty_folder_is_refused(project: Project, tmp_path: Path):
    assert "no file to classify" in predict(project, tmp_path, tmp_path / "a.csv", code=1)
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def bucket(project: Project, many: Path) -> Iterator[str]:
    """The address of a folder of an S3 server, with 40 files."""
    names = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    with running_server(["moto_server"], "moto-api/", project) as address:
        client = boto3.client(
            "s3", endpoint_url=address, region_name="us-east-1",
            aws_access_key_id="me", aws_secret_access_key="x",
        )  # fmt: skip
        client.create_bucket(Bucket="pictures")
        for path in sorted(many.rglob("*.jpg"))[480:520]:
            client.upload_file(path, "pictures", f"new/{path.relative_to(many).as_posix()}")
        before = project.environment
        project.environment = before | names | {"AWS_ENDPOINT_URL": address}
        yield "s3://pictures/new"
        project.environment = before


def test_a_folder_on_s3(project: Project, many: Path, whole: Path, bucket: str, tmp_path: Path):
    predict(project, bucket, tmp_path / "s3.csv", code=1)
    rows = (tmp_path / "s3.csv").read_text().replace(bucket, str(many)).splitlines()
    assert len(rows) == 41
    assert set(rows) <= set(whole.read_text().splitlines())
    output = predict(project, "s3://pictures/other", tmp_path / "a.csv", code=1)
    assert "s3://pictures/other: no such file or folder" in output


@pytest.mark.slow
def test_ray_gives_the_same_answers(
    project: Project, many: Path, whole: Path, bucket: str, tmp_path: Path
):
    words = [sys.executable, "-m", "image_classifier", "predict", str(many), bucket]
    words += ["--on", "ray", "--output", str(tmp_path / "ray.csv")]
    output = project.run(*words, code=1, TMPDIR="/tmp", RAY_ADDRESS="")
    assert "2 of them cannot be read" in output
    rows = (tmp_path / "ray.csv").read_text().replace(bucket, str(many))
    assert rows.startswith(whole.read_text())
    assert len(rows.splitlines()) == 1 + FILES + 40
    assert set(rows.splitlines()) == set(whole.read_text().splitlines())
