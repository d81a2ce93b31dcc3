"""The page of `image-classifier serve`, in a real browser: what a person sees, sends and opens."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from conftest import Project
from faults.limited_server import limited_server
from test_report_page import BROWSER

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1200, "height": 900}}
NOTE = "Synthetic phantoms drawn by a program"


@dataclass
class Served:
    """A running server, and the images of its project."""

    url: str
    folder: Path
    image: Path = field(init=False)

    def __post_init__(self) -> None:
        self.image = self.folder / "data/test/COVID19/phantom-001.jpg"

    def classify(self, image: Path) -> dict:
        """Return the answer of POST /classify for an image."""
        request = urllib.request.Request(
            f"{self.url}/classify", image.read_bytes(), {"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["predictions"][0]


@pytest.fixture(scope="module")
def served(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page") / "project"
    with limited_server(project, folder) as server:
        yield Served(f"http://127.0.0.1:{server.port}", server.project.folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def said() -> list[str]:
    """What the browser writes to its console in a test."""
    return []


@pytest.fixture
def asked() -> list[str]:
    """The addresses that the browser asks in a test."""
    return []


@pytest.fixture
def page(
    request: pytest.FixtureRequest,
    served: Served,
    browser: Browser,
    said: list[str],
    asked: list[str],
) -> Iterator[Page]:
    """The page in a new window; it asks no other host, and writes nothing to the console."""
    context = browser.new_context(**getattr(request, "param", DESKTOP))
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.url)
    expect(page.locator("#version")).to_have_text("synthetic-xray-classifier, version 1")
    yield page
    context.close()
    assert all(url.startswith((served.url, f"blob:{served.url}", "data:")) for url in asked), asked
    assert said == []


def percent(value: float) -> str:
    """Return a probability as the page shows it."""
    if 0 < value < 0.001:
        return "below 0.1%"
    if 0.999 < value < 1:
        return "above 99.9%"
    return f"{round(100 * value, 1):g}%"


def is_loaded(page: Page, name: str) -> bool:
    return page.locator(name).evaluate("image => image.complete && image.naturalWidth > 0")


@pytest.mark.parametrize("page", [DESKTOP, PHONE], indirect=True, ids=["desktop", "phone"])
def test_an_image_gets_the_same_answer_as_over_http_and_a_heat_map(page: Page, served: Served):
    expected = served.classify(served.image)
    page.get_by_label("Choose an image").set_input_files(served.image)
    answer = page.locator("#answer")
    expect(answer.locator(".label")).to_have_text(expected["label"])
    for name, value in expected["probabilities"].items():
        expect(answer.locator("li", has_text=name)).to_contain_text(percent(value))
    expect(answer).to_contain_text(", ".join(expected["plausible"]))
    expect(answer).to_contain_text(f"{percent(expected['unusual'] / 100)} of the validation images")
    expect(answer).to_contain_text("version 1")
    with urllib.request.urlopen(f"{served.url}/model") as response:
        threshold = json.load(response)["threshold"]
    mark = answer.locator("li", has_text="COVID19").locator("b")
    assert mark.evaluate("mark => mark.style.left") == f"{100 * threshold:.6g}%"
    expect(page.locator("#heat")).to_be_visible()
    assert is_loaded(page, "#heat")
    assert is_loaded(page, "#preview")
    expect(page.locator("#meaning")).to_contain_text(f"evidence for {expected['label']}")
    expect(page.get_by_role("complementary")).to_contain_text(NOTE)
    expect(page.get_by_role("complementary")).to_contain_text("Not a medical device")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]


def test_the_keyboard_alone_chooses_an_image_and_opens_the_card(page: Page, served: Served):
    with page.expect_file_chooser() as chosen:
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.type") == "file":
                break
        outline = "getComputedStyle(document.activeElement.closest('.button')).outlineStyle"
        assert page.evaluate(outline) == "solid"  # the focus is visible
        page.keyboard.press("Space")
    chosen.value.set_files(served.image)
    expect(page.locator("#heat")).to_be_visible()
    page.get_by_role("link", name="Model card").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "Model card: synthetic-xray-classifier/1"
    )


def test_an_image_can_be_dropped_and_pasted(page: Page, served: Served):
    code = """([kind, name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name));
        const both = {dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true};
        const event = kind === "drop" ? new DragEvent(kind, both) : new ClipboardEvent(kind, both);
        document.getElementById("zone").dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(code, [kind, f"{kind}.jpg", list(served.image.read_bytes())])
        expect(page.locator("#sent")).to_contain_text(f"{kind}.jpg")
        expect(page.locator("#heat")).to_be_visible()


def test_errors_are_said_in_plain_words(
    page: Page, served: Served, tmp_path: Path, said: list[str]
):
    text = tmp_path / "text.png"
    text.write_text("hello")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(17 * 2**20))
    answer = page.locator("#answer")
    chooser = page.get_by_label("Choose an image")
    chooser.set_input_files(text)
    expect(answer).to_contain_text("The server cannot use this file.")
    expect(answer).to_contain_text("The image cannot be read: not an image file")
    expect(page.get_by_text("This browser cannot show this file.")).to_be_visible()
    chooser.set_input_files(large)
    expect(answer).to_contain_text("It has 17 MiB; at most 16 MiB are allowed.")
    page.context.set_offline(True)
    chooser.set_input_files(served.image)
    expect(answer).to_contain_text("No connection to the server.")
    page.context.set_offline(False)
    answer.get_by_role("button", name="Try again").click()
    expect(page.locator("#heat")).to_be_visible()
    # the browser itself reports requests that fail
    assert len(said) == 2 and all("Failed to load resource" in text for text in said), said
    said.clear()


def test_a_busy_server_and_a_new_version_are_said(page: Page, served: Served, said: list[str]):
    busy = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "The server is busy."}
    page.route(
        "**/classify",
        lambda route: route.fulfill(status=429, headers={"retry-after": "10"}, json=busy),
    )
    chooser = page.get_by_label("Choose an image")
    chooser.set_input_files(served.image)
    answer = page.locator("#answer")
    expect(answer).to_contain_text("The server is busy. Try again in 10 seconds.")
    page.unroute("**/classify")

    def from_another_version(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, headers=response.headers | {"x-model": "models:/other/2"})

    page.route("**/classify", from_another_version)
    answer.get_by_role("button", name="Try again").click()
    expect(answer).to_contain_text("other, version 2")
    expect(answer).not_to_contain_text("Threshold")  # that of version 1 is not shown beside it
    expect(page.locator("#meaning")).to_contain_text(
        "It is from synthetic-xray-classifier, version 1."
    )
    assert len(said) == 1  # the browser itself reports status 429
    said.clear()


def test_many_classes_are_folded_and_every_kind_of_answer_is_explained(page: Page):
    hostile = "<img src=x onerror=alert(1)>"
    names = [hostile, "50", *(f"class {number}" for number in range(2, 100))]
    probabilities = {name: (100 - place) / 5050 for place, name in enumerate(names)}
    prediction = {
        "label": "unknown", "probability": 100 / 5050, "probabilities": probabilities,
        "plausible": [hostile, "50"], "unusual": 98.5, "seen": "near copy",
    }  # fmt: skip
    page.evaluate("prediction => showPrediction(prediction, model.model)", prediction)
    answer = page.locator("#answer")
    expect(answer.locator("li:visible")).to_have_count(5)
    expect(answer.locator("li").first).to_have_text(f"{hostile}2%")
    assert answer.locator("img").count() == 0
    answer.get_by_text("The other 95 classes").click()
    expect(answer.locator("li:visible")).to_have_count(100)
    expect(answer).to_contain_text(
        "The model does not decide: more than one class is plausible, and the image is unusual. "
        f"Otherwise: {hostile}, probability 2%."
    )
    expect(answer).to_contain_text("Yes: 98.5% of the validation images are more like")
    expect(answer).to_contain_text("Yes, a near copy: the answer says little about new images.")
