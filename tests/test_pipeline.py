"""The stages through the real `dvc`, and what they leave in the real MLflow store."""

import csv
import re
import sys
from pathlib import Path

import mlflow
import pytest

from conftest import OUTPUT, SHRUNK, Project, copy_of
from image_classifier.__main__ import COMMANDS, STAGES
from image_classifier.config import compose


def run_of(project: Project) -> mlflow.entities.Run:
    client = mlflow.MlflowClient(project.store)
    return client.get_run(project.read("build/train/run.json")["run_id"])


def artifacts_of(project: Project) -> set[str]:
    client = mlflow.MlflowClient(project.store)
    run = run_of(project).info.run_id
    return {
        file.path
        for folder in client.list_artifacts(run)
        for file in client.list_artifacts(run, folder.path)
    }


def stages_to_run(project: Project, *overrides: str) -> list[str]:
    """Return the stages that DVC would run with these settings."""
    params = project.folder / "params.yaml"
    before = params.read_text()
    try:
        project.write_params(*SHRUNK, *overrides)
        changed = re.findall(r"^(\w+):$", project.run("dvc", "status"), flags=re.MULTILINE)
    finally:
        params.write_text(before)
    return changed


def test_the_embedded_dataset_goes_through_every_stage(project: Project):
    metrics = project.read("build/evaluate/metrics.json")
    assert set(metrics) == {
        "accuracy", "balanced_accuracy", "f1_macro", "loss", "sensitivity", "specificity",
        "precision", "f1", "roc_auc", "pr_auc", "brier", "calibration_error",
    }  # fmt: skip
    assert project.read("build/promote/decision.json")["champion"]
    with (project.folder / "build/evaluate/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert right / 80 == pytest.approx(metrics["accuracy"])


def test_nothing_runs_again_when_nothing_changed(project: Project):
    output = project.run("dvc", "repro")
    assert "Running stage" not in output
    assert "up to date" in output


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("promotion.minimum_accuracy=0.1", "promote"),
        ("evaluation.threshold=0.4", "evaluate"),
        ("+external.x.path=x", "external"),
        ("optimizer.learning_rate=0.01", "train"),
        ("augmentation=none", "train"),
        ("image.height=40", "prepare"),
        ("split.seed=1", "split"),
        ("dataset.subfolder=x", "fetch"),
    ],
)
def test_a_changed_setting_runs_only_what_it_changes(project: Project, override: str, first: str):
    assert stages_to_run(project, override)[:1] == [first]


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("serving/prediction.py", ["evaluate"]),  # and promote, when the version is another one
        ("data/images.py", ["split", "prepare", "evaluate", "promote"]),
        ("training/batches.py", ["train"]),
        ("training/learning_curves.py", []),
        ("evaluation/plots.py", ["evaluate"]),
        ("stages/promote.py", ["promote"]),
        ("serving/application.py", []),
    ],
)
def test_changed_code_runs_only_the_stages_whose_output_it_decides(
    changed: Project, file: str, stages: list[str]
):
    source = changed.folder / "src/image_classifier" / file
    before = source.read_text()
    try:
        source.write_text(before + "\n# a comment\n")
        status = changed.run("dvc", "status")
    finally:
        source.write_text(before)
    assert re.findall(r"^(\w+):$", status, flags=re.MULTILINE) == stages


def test_the_run_has_every_hyperparameter(project: Project):
    params = run_of(project).data.params
    settings = compose.flatten(compose.load(project.folder / "params.yaml"))
    for key, value in settings.items():
        if not key.startswith(("evaluation", "promotion", "serving")):
            assert params[key] == str(value), key


def test_the_run_has_metrics_by_epoch_and_test_metrics(project: Project):
    client = mlflow.MlflowClient(project.store)
    run = run_of(project)
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == [1, 2]
    tested = project.read("build/evaluate/metrics.json")
    for name, value in tested.items():
        assert run.data.metrics[f"test_{name}"] == pytest.approx(value)
    assert run.data.metrics["parameters"] > 0
    assert run.data.metrics["train_seconds"] > run.data.metrics["fit_seconds"] > 0


def test_the_run_has_its_commit_stage_device_and_dataset(project: Project):
    run = run_of(project)
    tags = run.data.tags
    assert re.fullmatch("[0-9a-f]{40}", tags["mlflow.source.git.commit"])
    assert tags["dvc.stage"] == "train"
    assert "TensorFlow" in tags["device"]
    assert re.fullmatch("[0-9a-f]{64}", tags["sha256.requirements.lock"])
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "synthetic-xray"
    assert tags["manifest_digest"].startswith(dataset.digest)


def test_the_run_has_its_plots_and_tables(project: Project):
    assert artifacts_of(project) >= {
        "training/learning_curves.png", "training/history.csv", "training/model_summary.txt",
        "data/image_grid.png", "data/manifest.csv", "data/skipped.csv", "data/fetch.json",
        "data/duplicates.csv", "config/params.yaml", "promotion/decision.json",
        "evaluation/confusion_matrix.png", "evaluation/roc.png", "evaluation/predictions.csv",
        "evaluation/precision_recall.png", "evaluation/calibration.png",
        "evaluation/heat_maps.png", "evaluation/report.json", "evaluation/model_card.md",
    }  # fmt: skip


def test_the_version_is_registered_with_its_metrics(project: Project):
    client = mlflow.MlflowClient(project.store)
    version = client.get_model_version_by_alias("synthetic-xray-classifier", "champion")
    metrics = project.read("build/evaluate/metrics.json")
    assert float(version.tags["test_accuracy"]) == pytest.approx(metrics["accuracy"], rel=1e-4)
    report = project.read("build/evaluate/report.json")
    assert float(version.tags["threshold"]) == pytest.approx(report["threshold"], rel=1e-5)
    assert "validation_accuracy" in version.tags


def test_validation_metrics_and_test_metrics_have_different_names(project: Project):
    trained, tested = (
        project.read(f"build/{stage}/metrics.json") for stage in ("train", "evaluate")
    )
    assert "best_val_accuracy" in trained
    assert not set(trained) & set(tested)


def test_every_metric_has_an_interval_around_it(project: Project):
    report = project.read("build/evaluate/report.json")
    metrics = project.read("build/evaluate/metrics.json")
    for name, entry in report["test"].items():
        assert entry["value"] == metrics[name]
        assert entry["low"] <= entry["high"]
    accuracy = report["test"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_the_model_card_is_the_versions_description_and_says_synthetic_first(project: Project):
    client = mlflow.MlflowClient(project.store)
    version = client.get_model_version_by_alias("synthetic-xray-classifier", "champion")
    card = (project.folder / "build/evaluate/model_card.md").read_text()
    assert version.description.replace("&emsp;", "") == card
    assert "Synthetic" in card.splitlines()[0]
    assert len(card) < 5000  # what a registry on PostgreSQL takes
    for part in (
        "Test metrics",
        "95%",
        "Duplicates",
        "Shortcuts",
        "another hospital",
        "was looked at once",
        "report.html",
        "medical",
    ):
        assert part in card


def test_the_embedded_dataset_has_no_duplicates_and_no_shortcut(project: Project):
    report = project.read("build/evaluate/report.json")
    assert report["duplicates"]["exact_pairs"] == report["duplicates"]["near_pairs"] == 0
    assert report["shortcuts"] == []
    for probe in report["probes"]:
        assert probe["balanced_accuracy"] < 0.7


def test_the_model_has_signature_example_and_pinned_requirements_and_no_pickle(project: Project):
    client = mlflow.MlflowClient(project.store)
    version = client.get_model_version_by_alias("synthetic-xray-classifier", "champion")
    mlflow.set_tracking_uri(project.store)
    local = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")
    info = mlflow.models.get_model_info(local)
    assert info.signature.inputs.input_names() == ["image"]
    assert info.saved_input_example_info is not None
    files = [path for path in Path(local).rglob("*") if path.is_file()]
    assert "tensorflow==" in (Path(local) / "requirements.txt").read_text()
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".joblib")]


def test_the_device_the_classes_and_the_summary_are_printed(project: Project):
    output = (project.folder / OUTPUT).read_text()
    assert "classes: {0: 'NORMAL', 1: 'COVID19'}, image shape: (48, 48, 3)" in output
    assert re.search(r"TensorFlow .*CPU cores|TensorFlow .*GPU", output)
    assert "Total params" in output


def test_dvc_shows_metrics_and_plots(project: Project):
    metrics = project.run("dvc", "metrics", "show")
    assert "build/evaluate/metrics.json" in metrics
    assert "sensitivity" in metrics
    page = project.run("dvc", "plots", "show", "--json")
    for name in ("Loss", "Accuracy", "ROC curve", "Confusion matrix"):
        assert f'"{name}"' in page


def test_nothing_unfinished_is_left(project: Project):
    assert (project.folder / "runs/unfinished").is_dir()
    assert not list(project.folder.glob("runs/unfinished/*/"))


def test_the_summary_shows_the_metrics_and_what_to_do_next(project: Project):
    output = project.command("summary")
    accuracy = project.read("build/evaluate/metrics.json")["accuracy"]
    assert f"accuracy {accuracy:.4f}" in output
    assert max(map(len, output.splitlines())) < 125
    assert "synthetic" in output
    assert "image-classifier serve --model models:/synthetic-xray-classifier@champion" in output
    assert "params.yaml differs from the defaults" in output  # it is shrunk


def test_help_and_stages_without_a_model_import_neither_tensorflow_nor_mlflow(project: Project):
    commands = [["--help"], ["fetch"], ["external"], ["split"], ["prepare"]]
    commands += [[*command.split()[:1], "--help"] for command in [*STAGES, *COMMANDS]]
    code = f"""
import sys
from image_classifier.__main__ import main
for words in {commands}:
    try:
        code = main(words)
    except SystemExit as end:  # of --help
        code = end.code
    heavy = {{"tensorflow", "keras", "mlflow"}} & set(sys.modules)
    assert not code and not heavy, (words, code, heavy)
"""
    project.run(sys.executable, "-c", code)


@pytest.fixture(scope="module")
def changed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project that ran, for tests that change it."""
    return copy_of(project, tmp_path_factory.mktemp("changed") / "project")


@pytest.mark.slow
def test_another_threshold_is_registered_as_a_new_version_of_the_same_weights(changed: Project):
    before = changed.read("build/evaluate/evaluated.json")
    params = (changed.folder / "params.yaml").read_text()
    (changed.folder / "params.yaml").write_text(
        params.replace("threshold: youden", "threshold: 1.0").replace(
            "calibration: none", "calibration: temperature"
        )
    )
    output = changed.run("dvc", "repro")
    assert re.findall(r"Running stage '(\w+)'", output) == ["evaluate", "promote"]
    after = changed.read("build/evaluate/evaluated.json")
    assert int(after["version"]) > int(before["version"])
    client = mlflow.MlflowClient(changed.store)
    versions = [client.get_model_version(after["name"], v["version"]) for v in (before, after)]
    assert versions[0].tags["temperature"] == "1" != versions[1].tags["temperature"]
    assert versions[1].tags["threshold"] == "1"
    assert len({version.run_id for version in versions}) == 1
    assert (before["ledger"]["looks"], after["ledger"]["looks"]) == (1, 2)
    judged = changed.read("build/promote/decision.json")["ledger"]
    assert (judged["look"], judged["looks"], judged["decisions"]) == (2, 2, 2)
    assert "2 versions evaluated" in " ".join(changed.command("summary").split())
    assert changed.read("build/evaluate/metrics.json")["sensitivity"] == 0


def test_a_size_that_was_prepared_before_is_not_decoded_again(changed: Project):
    params = (changed.folder / "params.yaml").read_text()
    (changed.folder / "params.yaml").write_text(params.replace("height: 48", "height: 40"))
    assert "Running stage 'prepare'" in changed.run("dvc", "repro", "prepare")
    (changed.folder / "params.yaml").write_text(params)
    output = changed.run("dvc", "repro", "prepare")
    assert "Stage 'prepare' is cached - skipping run" in output


def test_experiments_leave_their_runs_in_the_one_store(changed: Project):
    small = [word for override in SHRUNK for word in ("-S", override)]
    changed.commit()
    words = [*small, "-S", "optimizer.learning_rate=0.01", "evaluate"]  # not the stage promote
    changed.run("dvc", "exp", "run", "--temp", *words)  # in a copy of the project
    listed = changed.run("dvc", "exp", "list", "--name-only").split()
    runs = mlflow.MlflowClient(changed.store).search_runs(["1"])
    experiments = {
        run.data.tags["dvc.exp_name"]: run for run in runs if "dvc.exp_name" in run.data.tags
    }
    assert set(experiments) == set(listed)
    (elsewhere,) = experiments.values()
    assert elsewhere.data.params["optimizer.learning_rate"] == "0.01"
    assert "test_accuracy" in elsewhere.data.metrics
    assert len({run.info.run_name for run in runs}) == len(runs)

    # the same settings again: DVC brings back the model, which names its existing run
    changed.run("dvc", "exp", "run", *words)
    assert changed.read("build/train/run.json")["run_id"] == elsewhere.info.run_id
