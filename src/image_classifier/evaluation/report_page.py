"""The report as a page: report.json with plots and pictures, in one HTML file."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image

from image_classifier.data.dataset import PreparedDataset
from image_classifier.data.findings import Finding
from image_classifier.data.images import Pixels, Rendering, decode
from image_classifier.data.unreadable import UnreadableImage
from image_classifier.evaluation import plots, report_texts, shortcut_tests
from image_classifier.evaluation.power import ASSUMPTION
from image_classifier.evaluation.predictions import Predictions
from image_classifier.evaluation.report_texts import interval, number
from image_classifier.project import paths
from image_classifier.project.files import new_file

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

TEMPLATE = "report_page.html"
SIDE = 120  # of a picture, in pixels
QUALITY = 80  # of its JPEG
IN_CELL = {"right": 8, "wrong": 40}  # pictures of a cell of the confusion matrix
ERRORS, LABELS, COPIES, FINDINGS = 12, 14, 12, 24  # pictures in the other sections
SECTIONS = {
    "metrics": "Metrics", "curves": "Curves", "confusion": "Confusion matrix",
    "errors": "Worst errors", "shortcuts": "Shortcuts", "external": "Other sources",
    "labels": "Suspected labels", "weak-spots": "Weak spots", "copies": "Copies",
    "findings": "Odd images", "doubt": "Doubt", "variation": "Variation", "ledger": "Looks",
    "data": "Data and model",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture with what is written below it.

    Attributes:
        data: A `data:` address of a JPEG.
        path: The path of the image in the dataset.
        lines: The lines below the picture.
    """

    data: str
    path: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: its images, and pictures of some of them."""

    actual: str
    predicted: str
    images: int
    pictures: Sequence[Picture]


def write(
    report: Mapping[str, Any],
    dataset: PreparedDataset,
    classifier: "Classifier",
    test: Predictions,
    findings: Sequence[Finding],
) -> None:
    """Write build/evaluate/report.html: one file, which needs no other file and no network.

    Args:
        report: evaluate's report.json.
        dataset: The prepared images.
        classifier: The model, for heat maps.
        test: Its predictions for the test images.
        findings: What is odd about single images.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # labels and paths may contain any characters
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    environment.globals |= {"number": number, "interval": interval}
    page = environment.get_template(TEMPLATE).render(
        report=report,
        images=sum(map(sum, report["confusion"])),
        severe=[caveat for caveat in report["caveats"] if caveat["severe"]],
        mild=[caveat for caveat in report["caveats"] if not caveat["severe"]],
        sections=SECTIONS,
        shortcut_sentences=[shortcut_tests.sentence(test) for test in report["shortcut_tests"]],
        text=texts(report),
        plots=[(title, embedded(path)) for title, path in plots_shown() if path.is_file()],
        cells=confusion_cells(dataset, test),
        errors=worst_errors(dataset, classifier, test),
        labels=doubtful_labels(report, dataset),
        copies=copies(dataset),
        findings=odd_images(dataset, findings[:FINDINGS]),
        more_findings=max(0, len(findings) - FINDINGS),
    )
    new_file(paths.REPORT_PAGE).write_text(page)


def texts(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the paragraphs that the page has in common with the model card, without Markdown."""
    found = {
        "introduction": report_texts.introduction(report),
        "power": f"{report['power']} {ASSUMPTION}",
        "data": report_texts.data(report),
        "shortcuts": report_texts.shortcut_verdict(report),
        "labels": report_texts.label_errors(report),
        "weak_spots": report_texts.weak_spots(report),
        "doubt": report_texts.doubt(report),
        "variation": report_texts.variation(report),
        "ledger": report_texts.looked_at(report),
        "limits": report_texts.limits(),
    }
    return {
        name: [plain(paragraph) for paragraph in text.split("\n\n")] for name, text in found.items()
    }


def plain(text: str) -> str:
    """Return a text without the signs of Markdown."""
    return text.replace("**", "").replace("`", "")


def plots_shown() -> list[tuple[str, Path]]:
    """Return title and file of the plots on the page."""
    return [
        ("ROC curve", plots.ROC),
        ("Precision and recall", plots.PRECISION_RECALL),
        ("Calibration", plots.CALIBRATION),
        ("Training", paths.TRAIN / paths.CURVES),
    ]


def embedded(path: Path) -> str:
    """Return a PNG file as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def thumbnail(pixels: Pixels) -> str:
    """Return a small JPEG of an image as a `data:` address.

    Args:
        pixels: uint8 array of shape (height, width, 1 or 3).
    """
    image = Image.fromarray(pixels.squeeze() if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def confusion_cells(dataset: PreparedDataset, test: Predictions) -> list[list[Cell]]:
    """Return the confusion matrix, with the surest predictions of each cell as pictures."""
    table = []
    for actual, actual_name in enumerate(dataset.classes):
        line = []
        for predicted, predicted_name in enumerate(dataset.classes):
            chosen = np.flatnonzero((test.labels == actual) & (test.predicted == predicted))
            sure = chosen[np.argsort(-test.probabilities[chosen, predicted], kind="stable")]
            shown = sure[: IN_CELL["right" if actual == predicted else "wrong"]]
            pictures = [test_picture(dataset, test, index) for index in shown]
            line.append(Cell(actual_name, predicted_name, len(chosen), pictures))
        table.append(line)
    return table


def test_picture(dataset: PreparedDataset, test: Predictions, index: int) -> Picture:
    """Return the picture of a test image, with the probability of what was predicted."""
    row = int(test.rows[index])
    predicted = test.predicted[index]
    probability = test.probabilities[index, predicted]
    return Picture(
        thumbnail(dataset.images[row]),
        dataset.rows[row].path,
        [f"{dataset.classes[predicted]} {probability:.3f}"],
    )


def worst_errors(
    dataset: PreparedDataset, classifier: "Classifier", test: Predictions
) -> list[tuple[Picture, str]]:
    """Return the errors with the least probable true class first, each with its heat map."""
    from image_classifier.evaluation.heat_maps import heat_maps, overlay  # imports TensorFlow

    _, wrong = plots.examples(test, len(dataset.classes))
    if not len(wrong):
        return []
    chosen = wrong[:ERRORS]
    images = dataset.images[test.rows[chosen]]
    maps = heat_maps(classifier, images, test.predicted[chosen])
    found = []
    for index, image, heat in zip(chosen, images, maps, strict=True):
        picture = test_picture(dataset, test, index)
        actual = dataset.classes[test.labels[index]]
        lines = [f"{actual}, predicted {picture.lines[0]}"]
        pair = Picture(picture.data, picture.path, lines), thumbnail(overlay(image, heat))
        found.append(pair)
    return found


def doubtful_labels(report: Mapping[str, Any], dataset: PreparedDataset) -> list[Picture]:
    """Return pictures of the images whose label fits least; they say whether it is suspected."""
    row_of = {row.path: index for index, row in enumerate(dataset.rows)}
    return [
        Picture(
            thumbnail(dataset.images[row_of[entry["path"]]]),
            entry["path"],
            [
                f"labelled {entry['label']} ({entry['probability_of_label']:.3f})",
                f"likely {entry['likely_label']} ({entry['probability_of_likely_label']:.3f})",
                f"{'suspected, ' * (entry['suspected'] == 'yes')}{entry['split']}",
            ],
        )
        for entry in report["label_errors"]["first"][:LABELS]
        if entry["path"] in row_of
    ]


def copies(dataset: PreparedDataset) -> list[tuple[Picture, Picture, str]]:
    """Return near duplicates side by side, those first that leaked between splits.

    Their files are read again: images that leaked are not among the prepared ones.
    """
    with paths.DUPLICATES.open(newline="") as file:
        pairs = [row for row in csv.DictReader(file) if row["kind"] == "near duplicate"]
    pairs.sort(key=lambda row: (row["leaks"] != "yes", int(row["distance"])))
    split_of = {row.path: row.split for row in dataset.rows}
    found = []
    for row in pairs[:COPIES]:
        try:
            first, second = (
                Picture(
                    thumbnail(decode(paths.RAW / path, Rendering(SIDE, SIDE, 3, "pad", "own"))),
                    path,
                    [split_of.get(path, "not used")],
                )
                for path in (row["first"], row["second"])
            )
        except (UnreadableImage, OSError):  # changed since split, which read both
            continue
        leak = "; in two splits of the dataset" * (row["leaks"] == "yes")
        found.append((first, second, f"{row['distance']} of 576 bits differ{leak}"))
    return found


def odd_images(dataset: PreparedDataset, findings: Sequence[Finding]) -> list[Picture]:
    """Return the pictures of images with something odd."""
    row_of = {row.path: index for index, row in enumerate(dataset.rows)}
    return [
        Picture(
            thumbnail(dataset.images[row_of[finding.path]]) if finding.path in row_of else "",
            finding.path,
            [finding.kind, finding.detail, finding.split],
        )
        for finding in findings
    ]
