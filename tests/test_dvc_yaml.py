"""dvc.yaml lists for each stage the code, the settings and the files that decide its outputs."""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from conftest import ROOT, Project, copy_of
from image_classifier.stages import external, fetch, prepare, split

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PACKAGE = "image_classifier"

# Modules that a stage imports and that dvc.yaml does not list, with the reason: for all stages, ...
EXEMPT = {
    "errors": "texts of messages",
    "config.compose": "DVC compares the settings themselves: the stage's params",
    "config.messages": "texts of messages",
    "config.resolvers": "computes a setting, dataset.depends_on, which is a dependency itself",
    "config.schema": "types and ranges: DVC compares the settings themselves",
    "project.digests": "a digest of the same content never changes",
    "project.files": "how files are written, not what is in them",
    "project.paths": "names of files, which dvc.yaml lists as outs; what a path in a setting means",
    "project.processes": "which process works on a run",
    "project.plotting": "how plots are written",
    "project.records": "a record in another format is reported, with the command that helps",
    "project.tables": "how tables are written; one in another form is reported",
    "project.text": "texts of messages, and which names are refused",
    "tracking.connection": "where MLflow is",
    "tracking.database": "whether MLflow can use its database",
    "tracking.runs": "what MLflow's pages show",
}
# ... and for single stages
DECODER = ("data.images", "data.depth", "data.dicom", "data.unreadable")
STORED_CODE = (
    "serving.base64_text", "serving.batches", "serving.image_limits", "serving.image_service",
    "serving.prediction", "serving.pyfunc_model",
)  # fmt: skip
START = (
    "data.near_duplicates", "evaluation.bootstrap", "evaluation.comparison", "evaluation.looks",
    "evaluation.metrics", *STORED_CODE, "tracking.registry", "tracking.searches",
    "tracking.stored_models", "tracking.verified_models",
)  # fmt: skip
FINDS = "tells images from other files and from masks; their pixels play no part"
EXEMPT_OF_STAGE = {
    "fetch": dict.fromkeys(DECODER, FINDS),
    "external": dict.fromkeys(DECODER, FINDS),
    "split": {"config.git_address": "checks an address that this stage does not use"},
    "prepare": {
        "config.git_address": "checks an address that this stage does not use",
        "data.labels": "imported for the names of the splits",
    },
    "train": {
        "config.git_address": "checks an address that this stage does not use",
        "data.labels": "imported for the names of the splits",
        **dict.fromkeys(DECODER, "build/prepare has the pixels; the model stores its version"),
        "data.manifest": "reads build/split",
        "tracking.epoch_logger": "what MLflow's pages show",
        "tracking.system_metrics": "what MLflow's pages show",
        **dict.fromkeys(START, "finds and checks the version of training.start_from"),
        "known_images": "training knows nothing about new images; evaluate writes it",
        "training.finished": "keeps the epochs of finished trainings",
        "training.identity": "decides when a training continues, not how",
        "training.learning_curves": "plots and tables, which are no reason to train again",
        "training.resume": "where a training keeps its state",
        "training.timings": "measures seconds",
    },
    "evaluate": {
        "config.git_address": "checks an address that this stage does not use",
        "training.devices": "imported by training.resume",
        "training.finished": "imported by training.resume",
        "training.backbones": "imported by training.identity",
        "training.identity": "imported by training.resume",
        "training.resume": "removes the state of the training",
    },
    "promote": {
        "config.git_address": "checks an address that this stage does not use",
        "data.dataset": "imported for its type",
        "data.labels": "imported for the names of the splits",
        "known_images": "the gate compares predicted classes",
        **dict.fromkeys(STORED_CODE, "imported by what stores a model, which this stage does not"),
        "tracking.stored_models": "downloads the files that verified_models checks",
    },
}

# Settings that a stage reads and that are not in its params, with the reason
EXEMPT_SETTINGS = {
    "fetch": {
        "dataset.positive_class": "checked early; split uses it",
        "dataset.timeout_seconds": "does not change the images",
    },
    "train": {
        "dataset.note": "shown on MLflow's page until evaluate writes the model card there",
        "image": "changes build/prepare",
    },
    "evaluate": {"external": "changes build/external", "image": "changes build/prepare"},
}


@functools.cache
def imports_of(stage: str) -> frozenset[str]:
    """Return the modules that a stage imports, at any depth and also inside functions."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True)
    packages = {module for module in graph.modules if graph.find_children(module)}
    found = graph.find_upstream_modules(f"{PACKAGE}.stages.{stage}")
    found |= {f"{PACKAGE}.stages.{stage}"}
    return frozenset(name.removeprefix(f"{PACKAGE}.") for name in found - packages)


def modules_in(dependencies: list[str]) -> set[str]:
    """Return the modules that a stage's deps list, by file or by folder."""
    source = Path("src") / PACKAGE
    found = set()
    for path in map(Path, dependencies):
        if path.is_relative_to(source):
            files = [ROOT / path] if path.suffix else (ROOT / path).glob("*.py")
            found |= {
                ".".join(file.relative_to(ROOT / source).with_suffix("").parts)
                for file in files
                if file.suffix == ".py" and file.name != "__init__.py"
            }
    return found


def missing_modules(stage: str, dependencies: list[str]) -> set[str]:
    exempt = EXEMPT | EXEMPT_OF_STAGE.get(stage, {})
    return set(imports_of(stage)) - modules_in(dependencies) - set(exempt)


@pytest.mark.parametrize("stage", STAGES)
def test_the_modules_that_a_stage_imports_are_its_dependencies(stage: str):
    listed = modules_in(STAGES[stage]["deps"])
    assert not missing_modules(stage, STAGES[stage]["deps"]), "add them to deps, or exempt them"
    assert not listed - imports_of(stage), "the stage does not import these"
    own = set(EXEMPT_OF_STAGE.get(stage, {}))
    assert own <= imports_of(stage) - listed, "these exemptions are not needed"


@pytest.mark.parametrize(
    ("stage", "path"),
    [(stage, path) for stage in STAGES for path in STAGES[stage]["deps"] if path.endswith(".py")],
)
def test_no_listed_module_can_be_omitted(stage: str, path: str):
    without = [other for other in STAGES[stage]["deps"] if other != path]
    assert missing_modules(stage, without) == modules_in([path])


@pytest.mark.parametrize("module", [fetch, external, split, prepare])
def test_the_settings_in_a_stages_record_are_its_params(module: Any):
    name = module.__name__.rpartition(".")[2]
    assert STAGES[name]["params"] == module.PARAMS


TRACE = f"""
import json, os, pathlib, sys
from {PACKAGE}.config import compose, schema

sections = {{}}
for name, field in schema.Config.model_fields.items():
    annotation = str(field.annotation)
    for kind in (schema.ImageSource, *schema.Section.__subclasses__(), schema.Dataset):
        if kind.__name__ in annotation and kind is not schema.Config:
            sections[kind.__name__] = name
settings, files, paused = set(), set(), []
get = schema.Section.__getattribute__

def untraced(function):
    # what reads every setting, and decides nothing with it
    def wrapped(*arguments, **options):
        paused.append(True)
        try:
            return function(*arguments, **options)
        finally:
            paused.pop()
    return wrapped

def traced(section, key):
    if key in type(section).model_fields and not paused:
        kind = type(section).__name__
        value = get(section, key)
        if kind != "Config":
            settings.add(f"{{sections[kind]}}.{{key}}")
        elif not isinstance(value, schema.Section):
            settings.add(key)
    return get(section, key)

def opened(event, arguments):
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        path = pathlib.Path(os.path.abspath(os.fspath(arguments[0])))
        writes = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if path.is_relative_to(pathlib.Path("build").absolute()) and path.is_file() and not writes:
            files.add(str(path.relative_to(pathlib.Path.cwd())))

schema.Section.__getattribute__ = traced
compose.validate = untraced(compose.validate)
schema.Config.model_dump = untraced(schema.Config.model_dump)
sys.addaudithook(opened)
from {PACKAGE}.__main__ import main
code = main(sys.argv[1:])
pathlib.Path("trace.json").write_text(json.dumps([sorted(settings), sorted(files)]))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def traced(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """For each stage, run alone: the settings it read, the files it read, the files it wrote."""
    copy = copy_of(project, tmp_path_factory.mktemp("traced") / "project")
    # fetch reads other settings for a repository, and for a table
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(copy.folder / "data", folder / "data")
    images = sorted((folder / "data").rglob("*.jpg"))
    lines = [f"{path.relative_to(folder / 'data')},{path.parent.name}" for path in images]
    (folder / "data" / "labels.csv").write_text("\n".join(["path,label", *lines]))
    repository = Project(folder)
    repository.run("git", "init", "--quiet")
    repository.commit()
    params = (copy.folder / "params.yaml").read_text()
    url = f"path: null\n  url: {folder}"
    changed = params.replace("path: data\n  url: null", url, 1)
    changed = changed.replace("subfolder: null", "subfolder: data", 1)
    changed = changed.replace("table: null", "table: labels.csv", 1)
    (copy.folder / "params.yaml").write_text(changed)
    of_repository = run_traced(copy, "fetch")
    (copy.folder / "params.yaml").write_text(params)
    found = {stage: run_traced(copy, stage) for stage in STAGES}
    found["fetch"]["settings"] += of_repository["settings"]
    return found


def run_traced(project: Project, stage: str) -> dict[str, Any]:
    before = state(project)
    words = STAGES[stage]["cmd"].partition(f"-m {PACKAGE} ")[2].split()
    project.python("-c", TRACE, *words)
    settings, files = project.read("trace.json")
    written = {path for path, entry in state(project).items() if before.get(path) != entry}
    return {"settings": settings, "read": files, "written": written}


def state(project: Project) -> dict[str, tuple[int, int]]:
    """Return each file below build/ with what changes when it is written."""
    return {
        path.relative_to(project.folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in (project.folder / "build").rglob("*")
        if path.is_file()
    }


def covered(name: str, entries: list[str], separator: str) -> bool:
    return any(name == entry or name.startswith(entry + separator) for entry in entries)


@pytest.mark.parametrize("stage", STAGES)
def test_the_settings_that_a_stage_reads_are_its_params(traced: dict[str, Any], stage: str):
    params, exempt = STAGES[stage]["params"], list(EXEMPT_SETTINGS.get(stage, {}))
    read = traced[stage]["settings"]
    assert [name for name in read if not covered(name, params + exempt, ".")] == []
    unread = [
        entry for entry in params + exempt if not any(covered(name, [entry], ".") for name in read)
    ]
    assert unread == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_files_that_a_stage_reads_and_writes_are_its_deps_and_outs(
    traced: dict[str, Any], stage: str
):
    outs = [
        next(iter(entry)) if isinstance(entry, dict) else entry
        for entry in STAGES[stage]["outs"] + STAGES[stage].get("metrics", [])
    ]
    written = traced[stage]["written"]
    assert [path for path in written if not covered(path, outs, "/")] == []
    assert [path for path in outs if not any(covered(name, [path], "/") for name in written)] == []
    known = outs + [path for path in STAGES[stage]["deps"] if path.startswith("build/")]
    read = [path for path in traced[stage]["read"] if ".partial" not in path]
    assert [path for path in read if not covered(path, known, "/")] == []


def test_every_plot_of_dvc_shows_an_output():
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    outs = {str(out) for stage in STAGES.values() for out in stage["outs"]}
    assert set(re.findall(r"build/[\w/.]+", json.dumps(plots))) <= outs
