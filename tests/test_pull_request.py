"""The workflow that comments on pull requests: its steps, and the command that it uses."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, Project, copy_of

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/pull_request.yaml").read_text())
JOBS = WORKFLOW["jobs"]
RUNS = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in JOBS.items()}


def test_the_summary_compares_with_another_commit(project: Project, tmp_path: Path):
    copy = copy_of(project, tmp_path / "project")
    text = copy.command("summary", "--against", "HEAD")
    decision = copy.read("build/promote/decision.json")
    accepted = "accepts" if not decision["reasons"] else "refuses"
    assert f"**The gate {accepted} this model" in text
    value, entry = r"\d\.\d{4}", copy.read("build/evaluate/report.json")["test"]["accuracy"]
    row = re.search(rf"\| accuracy \| ({value}) \| ({value}) \| ({value}) to ({value}) \|", text)
    expected = [entry["value"], entry["value"], entry["low"], entry["high"]]
    assert list(map(float, row.groups())) == pytest.approx(expected, abs=1e-4)

    decision |= {"reasons": ["it is too small", "it is too slow"]}
    (copy.folder / "build/promote/decision.json").chmod(0o644)
    (copy.folder / "build/promote/decision.json").write_text(json.dumps(decision))
    refused = copy.command("summary", "--against", "HEAD")
    assert "**The gate refuses this model**: it is too small; it is too slow." in refused
    assert "unknown Git revision 'none'" in copy.command("summary", "--against", "none", code=1)


def test_code_of_a_pull_request_can_neither_write_nor_be_injected():
    assert WORKFLOW["permissions"] == {}
    assert JOBS["compare"]["permissions"] == {"contents": "read"}
    assert JOBS["compare"]["steps"][0]["with"]["persist-credentials"] is False
    assert JOBS["comment"]["permissions"] == {"pull-requests": "write"}
    assert not any("checkout" in step.get("uses", "") for step in JOBS["comment"]["steps"])
    assert "head.repo.full_name == github.repository" in JOBS["comment"]["if"]
    assert not any("${{" in command for commands in RUNS.values() for command in commands)
    # titles and names of branches are texts of strangers
    assert not re.search(r"title|body\b|head_ref|head\.ref", str(JOBS).replace("--body-file", ""))


@pytest.mark.slow
def test_the_steps_compare_a_branch_with_its_base(project: Project, tmp_path: Path):
    """Every step of the first job runs, in a clone, with the real make."""
    origin = Project(tmp_path / "origin")
    project.run("git", "clone", "--quiet", ".", str(origin.folder))
    base = origin.run("git", "rev-parse", "HEAD").strip()
    text = (origin.folder / "params.yaml").read_text()
    (origin.folder / "params.yaml").write_text(text.replace("  epochs: 2\n", "  epochs: 3\n"))
    origin.commit()
    clone = Project(tmp_path / "clone")
    origin.run("git", "clone", "--quiet", ".", str(clone.folder))
    installed = clone.folder / ".venv/bin"  # nothing is installed: these packages are used
    installed.mkdir(parents=True)
    for name in ("python", "dvc", "image-classifier"):
        real = Path(sys.executable).with_name(name)
        (installed / name).write_text(f'#!/bin/sh\nexec "{real}" "$@"\n')
        (installed / name).chmod(0o755)
    (installed / ".installed").touch()
    tomorrow = time.time() + 86400  # newer than any file that git writes
    os.utime(installed / ".installed", (tomorrow, tomorrow))
    variables = {
        "BASE": base,
        "MERGED": origin.run("git", "rev-parse", "HEAD").strip(),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "page.md"),
    }
    for command in RUNS["compare"]:
        clone.run("bash", "-e", "-o", "pipefail", "-c", command, **variables)
    comment = (clone.folder / "comment.md").read_text()
    assert (tmp_path / "page.md").read_text() == comment
    assert "The gate" in comment and "| accuracy |" in comment
    assert re.search(r"params\.yaml \| training\.epochs \| 2 +\| 3 ", comment)
    upload = next(step for step in JOBS["compare"]["steps"] if "upload" in step.get("uses", ""))
    for name in upload["with"]["path"].split():
        assert (clone.folder / name).exists()
    plots = (clone.folder / "dvc_plots/index.html").read_text()
    assert '"rev": "base"' in plots and '"rev": "workspace"' in plots
