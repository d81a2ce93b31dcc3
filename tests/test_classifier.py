"""A trained model on disk: its metadata, and what happens when the decoder has changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
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


def test_other_images_in_a_batch_do_not_change_an_answer(project: Project):
    images = sorted((project.folder / "build/raw").rglob("*.jpg"))[:40]
    classifier = Classifier.load(project.folder / "build/train/model")
    pixels = np.stack([classifier.decode(path) for path in images])
    together = classifier.outputs(pixels).probabilities
    for size in (1, 2, 3, 32, 33):
        for start in range(0, len(pixels) - size, size):
            part = classifier.outputs(pixels[start : start + size], alone=False)
            assert np.array_equal(part.probabilities, together[start : start + size])
    (only,) = classifier.outputs_of_files([images[0]])
    assert np.array_equal(only[1].probabilities[0], together[0])
