"""A trained model on disk: its metadata, and what happens when the decoder has changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Project
from image_classifier.classifier import Classifier, read_metadata, write_metadata
from image_classifier.data.images import DECODER_VERSION


@pytest.mark.parametrize(
    ("decoder", "warnings"),
    [(DECODER_VERSION, 0), (DECODER_VERSION + 1, 1), ("a digest, as in older models", 1)],
)
def test_a_model_of_another_decoder_version_gives_a_warning(
    project: Project,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    decoder: int | str,
    warnings: int,
):
    trained = project.folder / "build/train/model"
    (tmp_path / "model.keras").write_bytes((trained / "model.keras").read_bytes())
    write_metadata(tmp_path, replace(read_metadata(trained), decoder=decoder))
    Classifier.load(tmp_path)
    assert caplog.text.count("another version of the image decoder") == warnings


def test_the_stage_train_leaves_the_threshold_to_evaluate(project: Project):
    trained = read_metadata(project.folder / "build/train/model")
    assert (trained.threshold, trained.temperature) == (0.5, 1.0)
    assert trained.decoder == DECODER_VERSION
