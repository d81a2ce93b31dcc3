"""The page of the server in a real browser: an image is chosen, and its answer read."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from conftest import Project
from faults.limited_server import Server, limited_server
from test_report_page import BROWSERS
from test_server import JPEG, send

BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with limited_server(project, tmp_path_factory.mktemp("page") / "project") as server:
        yield server


@pytest.fixture
def image(project: Project) -> Path:
    return project.folder / "data" / "test" / "COVID19" / "phantom-001.jpg"


@pytest.fixture(params=[390, 1200])
def page(server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page in a window of this width; at the end, without errors and without other sites."""
    errors, addresses = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": request.param, "height": 844})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(f"http://127.0.0.1:{server.port}/")
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= request.param
        browser.close()
    assert errors == []
    own = (f"http://127.0.0.1:{server.port}/", f"blob:http://127.0.0.1:{server.port}/", "data:")
    assert [address for address in addresses if not address.startswith(own)] == []


def test_an_image_gets_its_label_probability_and_heat_map(page: Page, server: Server, image: Path):
    assert "models:/synthetic-xray-classifier/1: COVID19 when its probability is at least" in (
        page.text_content("#model")
    )
    assert "Synthetic phantoms" in page.text_content("#synthetic")
    # with the keyboard: the chooser has the focus first, and Enter opens it
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.wait_for_timeout(500)  # until the browser has been told to report it
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    while not choosers:
        page.wait_for_timeout(100)
    choosers[0].set_files(image)
    page.wait_for_selector("#explained img")
    answer = json.loads(send(server, "POST", "/classify", image.read_bytes(), JPEG)[2])
    (prediction,) = answer["predictions"]
    assert page.text_content("h2") == prediction["label"]
    shown = page.text_content("section")
    assert f"with a probability of {100 * prediction['probability']:.1f}%" in shown
    assert f"{prediction['unusual']:.1f}% of the validation images are more like" in shown
    assert page.locator(".bar u").count() == 1  # the threshold
    page.wait_for_function("document.querySelector('#explained img').naturalWidth === 48")


def test_what_is_not_an_image_is_said(page: Page, tmp_path: Path, image: Path):
    text = tmp_path / "<b>notes.txt"
    text.write_text("hello")
    page.set_input_files("#file", text)
    page.wait_for_selector(".error")
    said = page.text_content(".error")
    assert said.startswith("<b>notes.txt was not classified: image in row 0 cannot be read")
    assert "not an image file" in said
    page.set_input_files("#file", image)  # the next image is classified
    page.wait_for_selector("h2")
    assert page.locator(".error").count() == 0


def test_the_card_is_a_click_away(page: Page):
    page.click("text=Model card")
    assert page.text_content("h1") == "Model card: synthetic-xray-classifier/1"
    page.go_back()
    page.click("text=Report of its evaluation")
    page.wait_for_url("**/report")
    assert "chance" in page.text_content("body")
    page.go_back()
