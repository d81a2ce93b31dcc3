"""The SQLite file of an MLflow store: what is wrong with it, before MLflow opens it.

MLflow migrates the database of an older version without a question. A file that it cannot open, it
tries to open for minutes.
"""

import os
import shlex
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

import mlflow
from sqlalchemy.engine import make_url

from image_classifier.errors import InputError

PATIENCE = 10.0  # seconds to wait for a lock: other processes write for a moment only
ELSEWHERE = "or set MLFLOW_TRACKING_URI to another store"


@cache
def check(address: str, to_write: bool) -> None:
    """Check that this MLflow can use the database of a store; do nothing for other stores.

    A file that does not exist, or is empty, is a new database: MLflow makes its tables.

    Args:
        address: The address of the store.
        to_write: Whether the database will be written to.

    Raises:
        InputError: the file is of another version of MLflow, locked, read-only, damaged, or not a
            database of MLflow.
    """
    name = make_url(address).database if address.startswith(("sqlite:", "sqlite+")) else None
    if not name or name == ":memory:":
        return
    file = Path(name).absolute()
    if file.is_dir():
        raise InputError(f"{file} is a folder, not the database of MLflow: {_move(file)}.")
    if not file.exists() or not file.stat().st_size:
        _require_writable_folder(file)
        return
    if not os.access(file, os.R_OK):
        raise InputError(
            f"{file}: no permission to read MLflow's database. See `ls -l {_word(file)}`."
        )
    if to_write:
        if not os.access(file, os.W_OK):
            raise InputError(
                f"{file}: MLflow's database is read-only. See `ls -l {_word(file)}`, {ELSEWHERE}."
            )
        _require_writable_folder(file)
    try:
        with closing(sqlite3.connect(file, timeout=PATIENCE)) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            versions: list[str] = []
            if "alembic_version" in tables:
                found = database.execute("SELECT version_num FROM alembic_version")
                versions = [row[0] for row in found]
            if to_write:
                database.execute("BEGIN IMMEDIATE")
                database.rollback()
    except sqlite3.DatabaseError as error:
        raise InputError(_explain(file, error)) from None
    if tables:
        _check_version(file, address, tables, versions)


def _check_version(file: Path, address: str, tables: set[str], versions: list[str]) -> None:
    """Compare the version of a database with the one that this MLflow needs.

    Raises:
        InputError: they differ, or it is not a database of MLflow.
    """
    from alembic.script import ScriptDirectory

    if not {"experiments", "runs"} <= tables:
        raise InputError(
            f"{file} is a database, but not an MLflow database (its tables: "
            f"{', '.join(sorted(tables))}): {_move(file)}."
        )
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    needed = migrations.get_current_head()
    if versions == [needed]:
        return
    known = {script.revision for script in migrations.walk_revisions()}
    if not known.issuperset(versions):
        raise InputError(
            f"{file} was written by a newer MLflow than the installed one, {mlflow.__version__} "
            f"(schema {', '.join(versions)}, needed: {needed}). Install the MLflow that wrote it, "
            f"or a newer one, {ELSEWHERE}."
        )
    backup = _word(file.with_name(f"{file.name}.backup"))
    raise InputError(
        f"{file} was written by an older MLflow than the installed one, {mlflow.__version__} "
        f"(schema {', '.join(versions) or 'none'}, needed: {needed}). Migrate it, after a backup: "
        f"`cp {_word(file)} {backup} && mlflow db upgrade {shlex.quote(address)}`. The older "
        f"MLflow can no longer read it afterwards."
    )


def _explain(file: Path, error: sqlite3.DatabaseError) -> str:
    """Return what SQLite found wrong with a file, and what helps."""
    match getattr(error, "sqlite_errorname", "").split("_")[1:2]:
        case ["BUSY"]:
            return (
                f"{file}: another process has locked MLflow's database for more than "
                f"{PATIENCE:.0f} seconds. `fuser -v {_word(file)}` shows which one: wait for it, "
                f"or stop it."
            )
        case ["NOTADB"]:
            return f"{file} is not a database: {_move(file)}."
    return (
        f"{file}: MLflow's database cannot be read ({error}). Restore it from a backup, or save "
        f"what is left: `sqlite3 {_word(file)} .recover`."
    )


def _require_writable_folder(file: Path) -> None:
    """Check that SQLite can make files in the folder of a database, as it does when it writes.

    Raises:
        InputError: the folder, or the one where MLflow would make it, is read-only.
    """
    folder = next(parent for parent in file.parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"{folder} is read-only, so MLflow cannot write its database {file}. See `ls -ld "
            f"{_word(folder)}`, {ELSEWHERE}."
        )


def _move(file: Path) -> str:
    """Return what to do with something that has the place of a database."""
    return (
        f"restore the database from a backup, or begin a new one: `mv {_word(file)} "
        f"{_word(file.with_name(f'{file.name}.old'))}`, {ELSEWHERE}"
    )


def _word(file: Path) -> str:
    """Return a path as the shell takes it."""
    return shlex.quote(str(file))
