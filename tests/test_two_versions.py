"""Several versions in one Python process: each runs the code that is stored with it."""

import shutil
import sys
from pathlib import Path

import pytest

from conftest import Project

CODE = """
import base64, pathlib, sys
import mlflow, pandas
image = base64.b64encode(pathlib.Path(sys.argv[1]).read_bytes()).decode()
models = []
for word in sys.argv[2:]:
    if word == "project":
        import image_classifier.serving.prediction as imported
    else:
        models.append(mlflow.pyfunc.load_model(word))
for model in models:  # after all are loaded
    print(model.predict(pandas.DataFrame({"image": [image]}))[0]["label"])
packages = [name for name in sys.modules if name.startswith("image_classifier")]
if "project" in sys.argv:
    assert sys.modules["image_classifier.serving.prediction"] is imported
    assert str(pathlib.Path.cwd()) in imported.__file__, imported.__file__
else:
    assert not packages, packages  # nothing was imported from outside while a model answered
"""


@pytest.fixture(scope="module")
def versions(project: Project, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A stored model, and two with other code: for the label, and for the decoding."""
    first = next((project.folder / "mlartifacts").rglob("MLmodel")).parent
    folder = tmp_path_factory.mktemp("versions")
    for number in (1, 2, 3):
        shutil.copytree(first, folder / str(number))
    package = Path("code/image_classifier")
    for number, name, old, new in (
        (2, "serving/prediction.py", "label=names[choice]", 'label=f"second {names[choice]}"'),
        (
            3,
            "serving/image_service.py",
            "import cv2\n",
            "import cv2\nraise RuntimeError('third')\n",
        ),
    ):
        file = folder / str(number) / package / name
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))
    return [str(folder / str(number)) for number in (1, 2, 3)]


@pytest.mark.parametrize("order", ["0 1", "1 0 1 1", "project 1 0"])
def test_each_version_runs_its_own_code(project: Project, versions: list[str], order: str):
    image = "data/test/COVID19/phantom-001.jpg"
    words = [word if word == "project" else versions[int(word)] for word in order.split()]
    output = project.python("-c", CODE, image, *words)
    labels = [line for line in output.splitlines() if line.endswith(("COVID19", "NORMAL"))]
    wanted = [number for number in order.split() if number != "project"]
    assert [line.startswith("second ") for line in labels] == [n == "1" for n in wanted], output
    lines = [line for line in output.splitlines() if "runs the code that is stored with it" in line]
    folders = [word for word in words if word != "project"]
    assert all(folder in line for folder, line in zip(folders, lines, strict=True))
    assert "WARNING mlflow" not in output


def test_a_version_that_cannot_be_imported_changes_nothing_for_others(
    project: Project, versions: list[str]
):
    code = f"""
import sys
import image_classifier.errors, mlflow
try:
    mlflow.pyfunc.load_model({versions[2]!r})
except Exception as error:
    print("refused:", error)
assert sys.modules["image_classifier.errors"] is image_classifier.errors
"""
    output = project.run(sys.executable, "-c", code)
    assert "refused: " in output
    assert "third" in output
