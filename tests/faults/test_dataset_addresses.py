"""A repository or its address cannot run commands, or copy other files of this machine."""

import csv
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from image_classifier.config import compose
from image_classifier.config.schema import Config
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.stages.fetch import fetch


def values(**dataset: object) -> dict:
    composed = compose.compose(["dataset=git", "dataset.name=pets", "dataset.url=placeholder"])
    plain = compose.OmegaConf.to_container(composed, resolve=True)
    plain["dataset"].update(dataset)
    return plain


def unused() -> dict[str, str]:
    with paths.UNUSED.open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def settings(**dataset: str | float) -> Config:
    return compose.validate(values(timeout_seconds=60.0, **dataset))


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    allowed = ["-c", "protocol.file.allow=always"]
    return subprocess.run(
        ["git", *identity, *allowed, *command], cwd=folder, check=True, capture_output=True,
        text=True,
    ).stdout.strip()  # fmt: skip


def dvc(folder: Path, *command: str) -> None:
    subprocess.run(["dvc", *command, "--quiet"], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=test")


@pytest.fixture
def repository(empty_project: Path) -> Path:
    """A dataset of two classes in a git repository."""
    folder = empty_project / "repository"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        (folder / label / "1.png").write_bytes(label.encode())
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def fetched() -> dict[str, bytes]:
    return {
        path.relative_to(paths.RAW).as_posix(): path.read_bytes()
        for path in paths.RAW.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ext::sh -c 'touch /tmp/ran'", "helper program"),
        ("fd::17", "helper program"),
        ("https::http://example.com/x.git", "helper program"),
        ("--upload-pack=touch /tmp/ran", "dash"),
        ("-u", "dash"),
        ("ssh://-oProxyCommand=touch/x", "no host"),
        ("ssh://-oProxyCommand=touch@example.com/x", "dash"),
        ("file:///etc", "https://"),
        ("FILE:///etc", "https://"),
        ("ftp://example.com/x.git", "https://"),
        ("https://", "no host"),
        ("https:///x.git", "no host"),
        ("https://example.com/x.git\nhttps://example.org", "control"),
        ("https://example.com:port/x.git", "is not an address"),
        ("https://[::", "helper program"),
        ("", "empty"),
        ("https://user:s3cret@example.com/x.git", "credential helper"),
        ("https://s3cret@example.com/x.git", "credential helper"),
        ("ssh://git:s3cret@example.com/x.git", "credential helper"),
        ("https://user:s3cret\u2100@example.com/x.git", "is not an address"),
    ],
)
def test_a_dangerous_address_is_refused_and_its_password_is_not_repeated(url: str, reason: str):
    with pytest.raises(InputError, match=rf"dataset\.url: .*{reason}") as raised:
        settings(url=url)
    assert "s3cret" not in str(raised.value)
    external = values(url="https://example.com/x.git") | {"external": {"north": {"url": url}}}
    with pytest.raises(InputError, match=rf"external\.north\.url: .*{reason}") as raised:
        compose.validate(external)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("revision", "--upload-pack=touch"), ("revision", "a b"), ("revision", "main:refs/x"),
        ("revision", "+main"), ("revision", "a..b"), ("revision", "a\nb"), ("revision", "^x"),
        ("subfolder", "../x"), ("subfolder", "a/../../x"), ("subfolder", "/etc"),
        ("subfolder", "-x"), ("subfolder", "a\x00b"),
    ],
)  # fmt: skip
def test_a_dangerous_revision_or_subfolder_is_refused_with_its_key(key: str, value: str):
    with pytest.raises(InputError, match=rf"dataset\.{key}: "):
        settings(**{key: value})


@pytest.mark.parametrize(
    "url",
    ["https://example.com/pets.git", "http://127.0.0.1:8000/x", "ssh://git@example.com:22/x.git",
     "git://example.com/x.git", "git@example.com:team/pets.git", "example.com:pets", "/srv/pets",
     "../pets", "pets: the repository"],
)  # fmt: skip
def test_an_ordinary_address_is_accepted(url: str):
    assert settings(url=url, revision="v1.0/final", subfolder="a/b c").dataset.url == url


def test_a_missing_local_repository_is_reported(empty_project: Path):
    with pytest.raises(InputError, match=r"dataset\.url=nowhere: no such folder.*https://"):
        fetch(settings(url="nowhere"))


def test_links_out_of_a_repository_are_skipped(repository: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.png").write_bytes(b"secret")
    (repository / "cat/out.png").symlink_to(secret / "key.png")
    (repository / "cat/up.png").symlink_to("../../secret/key.png")
    (repository / "cat/in.png").symlink_to("../dog/1.png")
    (repository / "eel").symlink_to(secret)
    (repository / "fox").mkdir()
    (repository / "fox/1.png").symlink_to("../cat/1.png")
    commit(repository)
    fetch(settings(url=str(repository), maximum_unused=0.5))
    assert fetched() == {
        "cat/1.png": b"cat", "cat/in.png": b"dog", "dog/1.png": b"dog", "fox/1.png": b"cat"
    }  # fmt: skip
    assert unused() == {
        "cat/out.png": "a link to outside the dataset",
        "cat/up.png": "a link to a missing file",
        "eel": "a link to outside the dataset",
    }


def test_a_subfolder_that_is_a_link_is_not_followed(repository: Path):
    (repository / "data").symlink_to("/etc")
    commit(repository)
    with pytest.raises(InputError, match="it has no folder data"):
        fetch(settings(url=str(repository), subfolder="data"))


def test_no_code_of_a_repository_runs(
    repository: Path, empty_project: Path, monkeypatch: pytest.MonkeyPatch
):
    """Hooks, filters and submodules, with commands in the git settings of repository and user."""
    command = f"touch {empty_project}/ran"
    (empty_project / "user").mkdir()
    user = empty_project / "user/gitconfig"
    user.write_text(f'[filter "evil"]\n  smudge = {command}\n  process = {command}\n')
    (repository / ".gitattributes").write_text("*.png filter=evil diff=evil\n")
    (repository / ".gitmodules").write_text(
        f'[submodule "cat/sub"]\n  path = cat/sub\n  url = ext::{command}\n  update = !{command}\n'
    )
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{head},cat/sub")
    git(repository, "-c", "filter.evil.clean=cat", "add", ".gitattributes", ".gitmodules")
    git(repository, "commit", "--quiet", "--message=evil")
    for hook in ("post-checkout", "pre-receive", "post-update", "reference-transaction"):
        (repository / f".git/hooks/{hook}").write_text(f"#!/bin/sh\n{command}\n")
        (repository / f".git/hooks/{hook}").chmod(0o755)
    with (repository / ".git/config").open("a") as file:
        file.write(f"[uploadpack]\n packObjectsHook = {command}\n[core]\n fsmonitor = {command}\n")
        file.write(f'[filter "evil"]\n smudge = {command}\n required = true\n')
    (empty_project / "ran").unlink(missing_ok=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(user))
    fetch(settings(url=str(repository)))
    assert fetched() == {"cat/1.png": b"cat", "dog/1.png": b"dog"}
    assert "cat/sub,git submodule," in paths.UNUSED.read_text()
    assert not (empty_project / "ran").exists()


def test_files_that_dvc_stores_are_downloaded(repository: Path):
    dvc(repository, "init")
    (repository / "cat/2.png").write_bytes(b"stored by DVC")
    dvc(repository, "add", "cat/2.png")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=dvc")
    (repository / "cat/2.png").unlink()
    (repository / "dog/1.png").write_bytes(b"changed, but not committed")
    fetch(settings(url=str(repository)))
    assert fetched()["cat/2.png"] == b"stored by DVC"
    assert fetched()["dog/1.png"] == b"dog"  # from the recorded commit, not from the working tree


def test_a_dvc_import_of_a_local_file_is_refused(repository: Path, tmp_path: Path):
    (tmp_path / "key.png").write_bytes(b"secret")
    dvc(repository, "init")
    (repository / "cat/key.png.dvc").write_text(
        f"deps:\n- path: {tmp_path}/key.png\nouts:\n- path: key.png\n"
    )
    commit(repository)
    with pytest.raises(
        InputError, match=r"cat/key\.png\.dvc imports data from another place.*dvc pull"
    ):
        fetch(settings(url=str(repository)))
    assert not paths.RAW.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[core]\nremote = r\n["remote \\"r\\""]\nurl = /etc\n', "has the remote r at /etc"),
        (
            '["remote \\"r\\""]\nurl = s3://x\nconfigpath = /etc/aws\n',
            "sets configpath of remote r",
        ),
    ],
)
def test_dvc_settings_that_name_files_of_this_machine_are_refused(
    repository: Path, text: str, message: str
):
    dvc(repository, "init")
    (repository / "cat/2.png.dvc").write_text(f"outs:\n- md5: {'0' * 32}\n  path: 2.png\n")
    (repository / ".dvc/config").write_text(text.replace('"remote \\"r\\""', "'remote \"r\"'"))
    commit(repository)
    with pytest.raises(InputError, match=rf"{message}.*dvc pull"):
        fetch(settings(url=str(repository)))
    assert not paths.RAW.exists()


def test_files_in_git_lfs_are_refused(repository: Path):
    (repository / "cat/1.png").write_text("version https://git-lfs.github.com/spec/v1\noid …\n")
    commit(repository)
    with pytest.raises(InputError, match=r"cat/1\.png is in Git LFS.*clone the repository"):
        fetch(settings(url=str(repository)))


def test_dvc_files_with_a_path_to_a_parent_folder_are_not_written(
    repository: Path, empty_project: Path
):
    dvc(repository, "init")
    cache = repository / ".dvc/cache/files/md5"

    def store(content: bytes, suffix: str = "") -> str:
        digest = hashlib.md5(content).hexdigest()
        (cache / digest[:2]).mkdir(parents=True, exist_ok=True)
        (cache / digest[:2] / (digest[2:] + suffix)).write_bytes(content)
        return digest

    name = "x/../../../../../escaped.png"
    entries = [
        {"md5": store(b"escaped"), "relpath": name},
        {"md5": store(b"x"), "relpath": "1.png"},
    ]
    listed = store(json.dumps(entries).encode(), ".dir")
    (repository / "cat/more.dvc").write_text(
        f"outs:\n- md5: {listed}.dir\n  size: 8\n  nfiles: 2\n  hash: md5\n  path: more\n"
    )
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=dvc")
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(settings(url=str(repository)))
    assert not list(empty_project.rglob("escaped*"))
    assert not paths.RAW.exists()
