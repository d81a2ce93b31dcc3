"""The report as a page: one file, whose links lead somewhere, also in a browser."""

import base64
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from conftest import Project, copy_of
from image_classifier.evaluation.caveats import find_caveats

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Page(HTMLParser):
    """The links, names, images and texts of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.images: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.names |= {values["id"]} if "id" in values else set()
        self.links += [values["href"]] if "href" in values else []
        self.images += [values["src"]] if "src" in values else []

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(project: Project) -> Page:
    return Page((project.folder / "build/evaluate/report.html").read_text())


def test_the_page_needs_no_other_file_and_every_link_leads_somewhere(page: Page):
    assert all(image.startswith("data:image/") for image in page.images)
    assert not {"script", "iframe", "object"} & set(page.tags)
    leading = [link.removeprefix("#") for link in page.links if link != "data:,"]
    assert set(leading) <= page.names
    for image in page.images:
        assert base64.b64decode(image.partition(",")[2], validate=True)


def test_the_first_screen_says_the_value_and_why_not_to_believe_it(project: Project, page: Page):
    report = project.read("build/evaluate/report.json")
    value = report["test"]["balanced_accuracy"]["value"]
    assert f"{100 * value:.1f}%" in page.text
    assert page.text.index("Why not to believe this value") < page.text.index("Test metrics")
    for caveat in report["caveats"]:
        assert caveat["text"].replace("`", "") in page.text
        assert caveat["section"] in page.names


def test_each_cell_of_the_confusion_matrix_leads_to_its_pictures(project: Project, page: Page):
    confusion = project.read("build/evaluate/report.json")["confusion"]
    for actual, line in enumerate(confusion):
        for predicted, images in enumerate(line):
            assert (f"cell-{predicted}-{actual}" in page.names) == bool(images)


def test_the_labels_that_fit_least_are_shown_and_none_is_called_suspected(
    project: Project, page: Page
):
    first = project.read("build/evaluate/report.json")["label_errors"]["first"]
    assert all(entry["path"] in page.text for entry in first[:8])
    assert "suspected, test" not in page.text


def test_it_is_stored_with_the_run_and_named_by_the_summary(project: Project):
    import mlflow

    run_id = project.read("build/train/run.json")["run_id"]
    files = mlflow.MlflowClient(project.store).list_artifacts(run_id, "evaluation")
    assert "evaluation/report.html" in {file.path for file in files}
    assert "build/evaluate/report.html" in project.command("summary")


def test_a_hostile_name_of_a_class_or_file_is_only_text(project: Project, tmp_path: Path):
    hostile = "<script>alert(1)</script>"
    copy = copy_of(project, tmp_path / "copy")
    code = f"""
import json, pathlib
from image_classifier.config.compose import load
from image_classifier.data.dataset import load_prepared
from image_classifier.classifier import Classifier
from image_classifier.evaluation import report_page
from image_classifier.evaluation.predictions import predict_split
from image_classifier.data.findings import Finding

dataset = load_prepared(load())
dataset.classes[0] = {hostile!r}
classifier = Classifier.load(pathlib.Path("build/train/model"))
text = pathlib.Path("build/evaluate/report.json").read_text()
report = json.loads(text.replace("NORMAL", {hostile!r}))
path = dataset.rows[0].path
findings = [Finding(path, {hostile!r}, "train", "dark", {hostile!r})]
report_page.write(report, dataset, classifier, predict_split(classifier, dataset, "test"), findings)
"""
    copy.run("python", "-c", code)
    found = Page((copy.folder / "build/evaluate/report.html").read_text())
    assert "script" not in found.tags
    assert hostile in found.text


def test_severe_reasons_come_first(project: Project):
    report = project.read("build/evaluate/report.json")
    report["shortcut_tests"][0]["suspicious"] = True
    report["external"] = {
        "north": {
            "images": 13, "accuracy": 0.3, "duplicates": 0, "unreadable": 0,
            "classes": {
                "COVID19": {"images": 10, "accuracy": 0.3, "drop": 0.65},
                "NORMAL": {"images": 3, "accuracy": 2 / 3, "drop": 1 / 3},  # of 3, not certain
            },
        },
    }  # fmt: skip
    found = [asdict(caveat) for caveat in find_caveats(report)]
    severe = [caveat["severe"] for caveat in found]
    assert severe == sorted(severe, reverse=True)
    texts = " ".join(caveat["text"] for caveat in found)
    assert "With the centre of every image hidden, the model still tells the classes apart" in texts
    assert "the external set north, the model recognises 3 of 10 COVID19, 30.0% (95%" in texts
    assert "2 of 3 NORMAL" not in texts
    assert "How good the model is on images from another hospital" not in texts


BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_without_an_error_and_without_scrolling_sideways(
    project: Project, tmp_path: Path, width: int
):
    page = project.folder / "build/evaluate/report.html"
    checked = tmp_path / "checked.html"
    # the page itself has no script: the size is read by one that is added here
    script = "<script>document.title = document.documentElement.scrollWidth</script>"
    checked.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    shown = subprocess.run(
        [BROWSER, *options, "--dump-dom", "--enable-logging=stderr", checked.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr
    # 500 pixels is the smallest window of a desktop's Chromium
    assert int(re.search(r"<title>(\d+)</title>", shown.stdout)[1]) <= max(width, 500)
    subprocess.run(
        [BROWSER, *options, f"--screenshot={picture}", page.as_uri()],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    with Image.open(picture) as image:
        assert len(image.convert("L").getcolors()) > 50  # text and pictures, not an empty page
