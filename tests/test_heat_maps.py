"""Heat maps of the pipeline's own models, on phantoms with an opacity at a known place."""

from pathlib import Path

import numpy as np
import pytest

from conftest import NETWORKS, architecture, taught
from image_classifier import classifier
from image_classifier.config import compose
from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.manifest import ImageRow
from image_classifier.evaluation import heat_maps
from image_classifier.training import architectures
from phantoms.drawing import phantom

LEFT, RIGHT = (0.3, 0.5), (0.7, 0.5)
SIDE = 96


def picture(index: int, centre: tuple[float, float] | None) -> np.ndarray:
    centres = [centre] if centre else None
    return phantom((9, index), centre is not None, (SIDE, SIDE), centres)[:, :, None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> classifier.Classifier:
    """The default model, taught on phantoms with one opacity at either side, or none."""
    images, labels = [], []
    for index in range(160):
        label = index % 2
        images.append(picture(index, (LEFT, RIGHT)[index // 2 % 2] if label else None))
        labels.append(label)
    file = tmp_path_factory.mktemp("phantoms") / "images.npy"
    np.save(file, np.stack(images))
    rows = [
        ImageRow(
            f"{i}.png", str(x), "train", str(i), "0" * 144, "", "", -1, "PNG", "L", SIDE, SIDE, 1
        )
        for i, x in enumerate(labels)
    ]
    return taught(PreparedDataset(rows, file, np.array(labels), ["0", "1"], "", {}))


def test_the_heat_moves_with_the_opacity(trained: classifier.Classifier):
    """The same body twice: only the side of the opacity differs."""
    columns = np.arange(SIDE)
    moved = 0
    for index in range(500, 520):
        pair = np.stack([picture(index, LEFT), picture(index, RIGHT)])
        heat = heat_maps.heat_maps(trained, pair, np.array([1, 1]))
        left, right = (heat * columns).sum((1, 2)) / heat.sum((1, 2)).clip(1e-9)
        moved += right - left > 0.1 * SIDE
    assert moved >= 15


def test_a_heat_map_has_the_images_size_and_reaches_one(trained: classifier.Classifier):
    images = np.stack([picture(index, LEFT) for index in range(600, 603)])
    heat = heat_maps.heat_maps(trained, images, np.array([1, 1, 1]))
    assert heat.shape == (3, SIDE, SIDE)
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_model_can_be_explained_for_every_class(name: str, classes: int):
    settings = compose.typed(
        compose.compose([*architecture(name), "image.height=32", "image.width=40"])
    )
    labels = [str(i) for i in range(classes)]
    model = classifier.Classifier(
        architectures.build(settings.model, (32, 40, 3), classes),
        classifier.Metadata(labels, 0.5, 1.0, 32, 40, 3, 1),
    )
    images = np.random.default_rng(0).integers(0, 255, (classes, 32, 40, 3), dtype=np.uint8)
    heat = heat_maps.heat_maps(model, images, np.arange(classes))
    assert heat.shape == (classes, 32, 40)


def test_an_overlay_leaves_cold_places_as_they_are():
    image = np.full((10, 10, 1), 100, np.uint8)
    heat = np.zeros((10, 10), np.float32)
    heat[2, 3] = 1
    result = heat_maps.overlay(image, heat)
    assert result.shape == (10, 10, 3)
    assert (result[heat == 0] == 100).all()
    assert result[2, 3, 0] > result[2, 3, 2]  # red


def test_predict_writes_a_heat_map_of_each_image(project, tmp_path: Path):
    files = sorted((project.folder / "data/test/COVID19").glob("*.jpg"))[:2]
    project.command("predict", *map(str, files), "--explain", str(tmp_path / "maps"))
    written = sorted((tmp_path / "maps").glob("*.png"))
    assert [path.stem.split("_", 1)[1] for path in written] == [path.stem for path in files]
