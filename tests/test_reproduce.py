"""A run is repeated from what MLflow recorded."""

import re
from dataclasses import replace

import pytest

from conftest import Project
from image_classifier.commands.reproduce import compare
from image_classifier.tracking.runs import Record


def test_a_run_is_repeated_to_the_last_bit(project: Project):
    run_id = project.read("build/train/run.json")["run_id"]
    output = project.command("reproduce", run_id)
    assert "weights  equal" in output
    assert re.search(r"metrics  (\d+) of \1 equal to the last bit", output)
    assert "DIFFERENT" not in output


def test_a_difference_is_reported(capsys: pytest.CaptureFixture):
    first = Record(
        {"weights_sha256": "a"}, {"val_loss": {1: 0.5, 2: 0.25}, "fit_seconds": {0: 9}}, ""
    )
    assert compare(first, first)
    assert compare(first, replace(first, metrics=first.metrics | {"fit_seconds": {0: 1}}))
    longer = first.metrics | {"system/cpu_utilization_percentage": {0: 50, 1: 90}}
    assert compare(replace(first, metrics=longer), first)
    assert not compare(first, replace(first, tags={"weights_sha256": "b"}))
    assert "weights  DIFFERENT" in capsys.readouterr().out
    assert not compare(first, replace(first, metrics={"val_loss": {1: 0.5, 2: 0.2500001}}))
    assert not compare(first, replace(first, metrics={"val_loss": {1: 0.5}}))
    assert "val_loss  DIFFERENT" in capsys.readouterr().out


def test_an_unknown_run_is_refused(project: Project):
    output = project.command("reproduce", "0" * 32, code=1)
    assert "is not in sqlite:" in output
    assert "Traceback" not in output
