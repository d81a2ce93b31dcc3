"""The database of MLflow's store is of another version, locked, read-only, or not a database."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from mlflow.store.tracking.dbmodels.initial_models import Base

from conftest import ROOT, SHRUNK, Project, as_nobody, copy_of
from image_classifier.errors import InputError
from image_classifier.tracking import database

OF_MLFLOW_2_9 = "acf3f17fdcc7"  # the schema of the databases that it makes
# the run and the sweep need not exist: the store is looked at first
COMMANDS = (
    ["predict", "data"],
    ["serve", "--port", "0"],
    ["drift", "data"],
    ["seen", "data"],
    ["export", "--format", "saved_model", "exported"],
    ["rollback"],
    ["adopt", "0" * 32, "mine"],
    ["reproduce", "0" * 32],
    ["prune", "0" * 32],
    ["train", *SHRUNK],
    ["train", "--multirun", *SHRUNK, "training.seed=1,2"],
    ["train", "--stage"],
    ["evaluate"],
    ["promote"],
)


def address_of(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture(scope="module")
def database_of_now(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the installed MLflow, with an experiment."""
    file = tmp_path_factory.mktemp("now") / "mlflow.db"
    mlflow.MlflowClient(address_of(file)).create_experiment("mine")
    return file


@pytest.fixture
def file(tmp_path: Path, database_of_now: Path) -> Path:
    """A copy of that database."""
    return Path(shutil.copy(database_of_now, tmp_path / "mlflow.db"))


def older(file: Path) -> None:
    """Make a database as MLflow 2.9 did, by the migrations of MLflow, with a run."""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    engine = sqlalchemy.create_engine(address_of(file))
    Base.metadata.create_all(engine)
    config = Config(str(migrations / "alembic.ini"))
    config.set_main_option("script_location", str(migrations))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OF_MLFLOW_2_9)
    engine.dispose()
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("INSERT INTO experiments VALUES (1, 'mine', '/x', 'active', 0, 0)")
        run = {
            "run_uuid": "old", "name": "old run", "experiment_id": 1, "status": "FINISHED",
            "lifecycle_stage": "active", "artifact_uri": "/x", "start_time": 1, "user_id": "me",
        }  # fmt: skip
        marks = ", ".join("?" * len(run))
        opened.execute(f"INSERT INTO runs ({', '.join(run)}) VALUES ({marks})", [*run.values()])


def newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE alembic_version SET version_num = 'f00dfeedf00d'")


def test_the_database_of_an_older_mlflow_is_migrated_by_the_command_in_the_message(
    project: Project, tmp_path: Path
):
    file = tmp_path / "the store.db"
    older(file)
    before = file.read_bytes()
    store = address_of(file)
    output = project.command("predict", "data", code=1, MLFLOW_TRACKING_URI=store)
    assert f"predict: {file} was written by an older MLflow" in output
    assert file.read_bytes() == before  # MLflow would have migrated it
    project.run("bash", "-c", re.search("`(.+)`", output)[1])
    assert file.with_name("the store.db.backup").read_bytes() == before
    assert mlflow.MlflowClient(store).get_run("old").info.run_name == "old run"
    output = project.command("seen", "data", code=1, MLFLOW_TRACKING_URI=store)
    assert "has no training" in output


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_stops_with_one_line(project: Project, file: Path, words: list[str]):
    newer(file)
    before = file.read_bytes()
    output = project.command(*words, code=1, MLFLOW_TRACKING_URI=address_of(file))
    message = f"{words[0]}: {file} was written by a newer MLflow"
    assert output.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in output
    assert "Epoch 1" not in output
    assert file.read_bytes() == before


def text(file: Path) -> None:
    file.write_text("This is a text.\n" * 100)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def other_program(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("CREATE TABLE studies (study_id INTEGER)")
        opened.execute("CREATE TABLE alembic_version (version_num TEXT)")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (text, "is not a database: restore"),
        (folder, "is a folder, not the database"),
        (
            other_program,
            r"is a database, but not an MLflow database \(its tables: alembic_version, studies",
        ),
        (truncated, r"cannot be read \(database disk image is malformed\)"),
        (newer, "newer MLflow .* Install"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file: Path, damage, message: str):
    damage(file)
    with pytest.raises(InputError, match=message):
        database.check(address_of(file), to_write=False)


def test_a_missing_or_empty_file_is_a_new_database(tmp_path: Path):
    database.check(address_of(tmp_path / "new.db"), to_write=True)
    (tmp_path / "empty.db").touch()
    database.check(address_of(tmp_path / "empty.db"), to_write=True)
    assert not (tmp_path / "new.db").exists()
    database.check("http://127.0.0.1:1", to_write=True)


@pytest.mark.parametrize("to_write", [True, False])
def test_a_locked_database_is_named(file: Path, monkeypatch: pytest.MonkeyPatch, to_write: bool):
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE" if to_write else "BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=r"locked MLflow's database .* `fuser -v "):
            database.check(address_of(file), to_write)
    database.check(address_of(file), to_write)


def test_a_read_only_store_can_be_read_but_not_written(file: Path, world: Path):
    places = {"file": world / "a", "folder": world / "b"}
    for place in places.values():
        place.mkdir()
        shutil.copy(file, place)
    (places["file"] / "mlflow.db").chmod(0o444)
    places["file"].chmod(0o777)
    (places["folder"] / "mlflow.db").chmod(0o666)
    code = f"""
import os, sys
import mlflow
from image_classifier.errors import InputError
from image_classifier.tracking import database
database.check({address_of(file)!r}, to_write=True)  # imports what nobody may not be able to
mlflow.MlflowClient({address_of(file)!r}).get_experiment_by_name("mine")
{as_nobody()}
for place in sys.argv[1:]:
    address = f"sqlite:///{{place}}/mlflow.db"
    database.check(address, to_write=False)
    print(mlflow.MlflowClient(address).get_experiment_by_name("mine").name)
    try:
        database.check(address, to_write=True)
    except InputError as error:
        print(error)
try:
    database.check(f"sqlite:///{{place}}/new.db", to_write=False)
except InputError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(world)}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, places.values())],
        cwd=world, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    first, read_only, second, no_folder, no_new = result.stdout.splitlines()
    assert first == second == "mine"
    assert read_only.startswith(f"{places['file']}/mlflow.db: MLflow's database is read-only.")
    assert no_folder.startswith(f"{places['folder']} is read-only, so MLflow cannot write")
    assert "new.db" in no_new


@pytest.mark.slow
def test_the_project_goes_on_in_a_migrated_store(project: Project, tmp_path: Path):
    mine = copy_of(project, tmp_path / "mine")
    (mine.folder / "mlflow.db").unlink()
    older(mine.folder / "mlflow.db")
    output = mine.command("train", *SHRUNK, code=1)
    mine.run("bash", "-c", re.search("`(.+)`", output)[1])
    output = mine.command("train", *SHRUNK, "training.epochs=1")
    assert "registered as models:/" in output
    assert mlflow.MlflowClient(mine.store).get_run("old")
