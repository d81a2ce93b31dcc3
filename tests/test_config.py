import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf

from image_classifier.__main__ import main
from image_classifier.config import compose
from image_classifier.config.messages import explain_composition
from image_classifier.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def values() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_params_yaml_is_what_conf_composes():
    composed = compose.config_of()
    assert compose.load(ROOT / "params.yaml") == composed, "run `make params`"


@pytest.mark.parametrize(
    "group",
    ["dataset", "augmentation", "model", "optimizer", "training", "experiment", "launch", "search"],
)
def test_every_choice_of_a_group_composes(group: str):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        needed = {
            "git": ["dataset.name=pets", "dataset.url=https://example.com/pets.git"],
            "folder": ["dataset.name=pets", "dataset.path=/pets"],
            "base": ["dataset.name=pets", "dataset.path=/pets"],
        }.get(path.stem, [])
        compose.config_of(f"{group}={path.stem}", *needed)


def test_an_unknown_key_is_refused_with_the_nearest_name(values: dict):
    values["optimizer"]["lerning_rate"] = 0.1
    with pytest.raises(InputError, match=r"optimizer\.lerning_rate.*optimizer\.learning_rate"):
        compose.validate(values)


def test_a_key_of_the_other_model_is_refused(values: dict):
    values["model"]["dense_units"] = 3
    with pytest.raises(InputError, match=r"model\.dense_units: no such key"):
        compose.validate(values)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "epochs", "3"),
        ("training", "epochs", 0),
        ("training", "epochs", True),
        ("training", "monitor", "val_recall"),
        ("optimizer", "learning_rate", -0.1),
        ("optimizer", "learning_rate", float("nan")),
        ("split", "validation_fraction", 1.0),
        ("evaluation", "threshold", 1.5),
        ("image", "channels", 4),
        ("image", "height", 7),
        ("model", "name", "compactt"),
        ("model", "filters", []),
    ],
)
def test_a_bad_value_is_refused_by_name(values: dict, section: str, key: str, value: object):
    values[section][key] = value
    with pytest.raises(InputError, match=section):
        compose.validate(values)


def test_a_dataset_has_one_source(values: dict):
    values["dataset"]["url"] = "https://example.com/x.git"
    with pytest.raises(InputError, match=r"dataset: give either path .* or url"):
        compose.validate(values)


def test_all_problems_are_reported_together(values: dict):
    values["training"]["epochs"] = 0
    values["split"]["seed"] = -1
    with pytest.raises(InputError, match=r"(?s)split\.seed.*training\.epochs"):
        compose.validate(values)


def test_the_articles_hyperparameters_are_the_article_model_and_the_defaults():
    settings = compose.config_of("model=article")
    assert settings.model.model_dump() == {
        "name": "article",
        "filters": [32, 64],
        "kernel_size": 5,
        "dense_units": 256,
        "dropout": 0.2,
    }
    assert settings.image.shape == (200, 200, 3)
    assert settings.split.validation_fraction == 0.2
    assert settings.augmentation.zoom == 0.2
    assert settings.augmentation.horizontal_flip
    assert settings.optimizer.learning_rate == 0.001
    assert (settings.training.epochs, settings.training.patience) == (30, 20)
    assert settings.training.batch_size == 32
    assert settings.training.monitor == "val_accuracy"


def test_the_reference_of_all_settings_is_up_to_date():
    command = [sys.executable, ROOT / "docs/configuration.py"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert page == (ROOT / "docs/configuration.md").read_text(), "run `make params`"


def test_a_model_without_a_name_is_refused(values: dict):
    del values["model"]["name"]
    with pytest.raises(InputError, match=r"model\.name is missing"):
        compose.validate(values)
    values["model"]["name"] = "compactt"
    with pytest.raises(
        InputError, match=r"model\.name: expected 'article', 'compact' or 'pretrained', got '"
    ):
        compose.validate(values)


def test_a_launcher_that_is_not_installed_is_named_with_its_folder():
    with pytest.raises(HydraException) as caught:
        compose.compose(["hydra/launcher=dask"])
    assert "Could not find 'hydra/launcher/dask': install" in explain_composition(caught.value)
    assert "conf/launch" in explain_composition(caught.value)


UNREADABLE = [
    "/data/archive (1)/chest xray", "~/toys", "it's", "M&M", "a#b", "a=b", "Größe", "x^y", "[a",
    "patient_(\\d+)", "patient_[0-9]+", "C:\\", "a\\'b", "$HOME/x",
]  # fmt: skip


@pytest.mark.parametrize("value", UNREADABLE)
def test_the_line_that_is_suggested_works_when_it_is_pasted(
    value: str, capsys: pytest.CaptureFixture[str]
):
    word = f"dataset.path={value}"
    code = main(["config", word])
    if code == 0:
        assert OmegaConf.create(capsys.readouterr().out).dataset.path == value
        return
    message = capsys.readouterr().err
    assert message.startswith(f"config: {word}: Hydra cannot read this value. Quote it twice: ")
    assert "Did you mean" not in message
    (pasted,) = shlex.split(message.split("Quote it twice: ")[1])
    assert main(["config", pasted]) == 0
    assert OmegaConf.create(capsys.readouterr().out).dataset.path == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.epochs", "=", "5"], "training.epochs: write KEY=VALUE, without spaces."),
        (["trainin.epochs"], "without spaces. Did you mean training.epochs?"),
        (["dataset.path=/x/a,b"], "belongs to the value: 'dataset.path="),
        (["model.dense_units=3"], "'model.dense_units'. It belongs to another model."),
        (["dataset.name=2024_01"], "dataset.name is a text, but 202401 is not"),
        (["dataset.positive_class=1"], "\"dataset.positive_class='…'\" on the command line"),
        (["dataset.positive_class=true"], "dataset.positive_class is a text, but True is not"),
        (["dataset.positive_class=1e3"], "dataset.positive_class is a text, but 1000.0 is not"),
    ],
)
def test_a_value_that_hydra_reads_otherwise_is_answered_with_what_to_type(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["config", *words]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    for word in words:  # never the key that was given
        assert f"Did you mean {word.partition('=')[0]}?" not in printed


def test_the_values_of_a_sweep_are_not_taken_for_the_fault(capsys: pytest.CaptureFixture[str]):
    error = HydraException("Could not override 'x.y'.")
    words = ["--multirun", "training.seed=0,1", "~dataset.classes", "x.y=3"]
    assert explain_composition(error, words).startswith("Could not override 'x.y'.")
    assert main(["predict", "no/such/file"]) == 1
    assert "KEY=VALUE" not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1", "true", "1e3", "2024_01", "007", "no", "null"])
def test_a_text_in_quotes_arrives_as_it_was_typed(value: str, capsys: pytest.CaptureFixture[str]):
    assert main(["config", f"dataset.positive_class='{value}'"]) == 0
    text = capsys.readouterr().out
    assert OmegaConf.create(text).dataset.positive_class == value
