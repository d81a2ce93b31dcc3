"""A DICOM set of 12 bits, from the folder to a served model."""

import base64
import csv
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from conftest import Project, new_project, post, running_server
from image_classifier.classifier import read_metadata
from image_classifier.data.depth import to_8_bits
from image_classifier.data.images import Rendering, decode, inspect, values_of
from image_classifier.data.unreadable import UnreadableImage

SIDE = 40


def picture(seed: int) -> np.ndarray:
    """A smooth picture, uint16 of shape (SIDE, SIDE), values from 0 to 4095."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 4095).astype(np.uint16)


def file(stored: np.ndarray, kind: str = "MONOCHROME2", **tags: object) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    header = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    header.Rows, header.Columns = stored.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, kind
    header.BitsAllocated = 8 * stored.dtype.itemsize
    header.BitsStored = 12 if stored.dtype.itemsize == 2 else 8
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.SOPClassUID = SecondaryCaptureImageStorage
    header.SeriesInstanceUID = "1.2.3"
    for name, value in tags.items():
        setattr(header, name, value)
    header.PixelData = stored.tobytes()
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def values(content: bytes, tmp_path: Path) -> np.ndarray:
    (tmp_path / "x.dcm").write_bytes(content)
    return values_of(tmp_path / "x.dcm")


def test_monochrome1_is_shown_as_monochrome2(tmp_path: Path):
    plain = picture(0)
    assert (values(file(plain), tmp_path) == plain).all()
    assert (values(file(4095 - plain, "MONOCHROME1"), tmp_path) == plain).all()


def test_rescaling_and_window_are_applied(tmp_path: Path):
    plain = picture(0)
    units = {"RescaleSlope": "2", "RescaleIntercept": "-1000"}
    assert (values(file(plain, **units), tmp_path) == plain * 2.0 - 1000).all()
    window = {"WindowCenter": "1000", "WindowWidth": "501"}
    shown = values(file(plain, **window), tmp_path)
    assert (shown[plain <= 749] == 0).all()
    assert (shown[plain > 1250] == 4095).all()
    inverted = file(4095 - plain, "MONOCHROME1", WindowCenter="3095", WindowWidth="501")
    assert np.abs(values(inverted, tmp_path) - shown).max() < 20
    signed = file(plain.astype(np.int16) - 2048, **units)
    assert values(signed, tmp_path).min() == -2048 * 2 - 1000


def test_8_bits_stay_as_they_are():
    plain = (picture(0) // 16).astype(np.uint8)
    rendering = Rendering(SIDE, SIDE, 1)
    assert (decode(file(plain), rendering)[:, :, 0] == plain).all()
    assert (decode(file(255 - plain, "MONOCHROME1"), rendering)[:, :, 0] == plain).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (file(np.stack([picture(0)] * 3), NumberOfFrames=3), "a DICOM file of 3 frames"),
        (file(picture(0))[:1500], "its pixels are damaged"),
        (bytes(128) + b"DICM" + b"x" * 50, "a damaged DICOM file"),
        (file(picture(0), Rows=60000, Columns=60000), "3,600,000,000 pixels"),
    ],
)
def test_what_cannot_be_read_has_a_reason(content: bytes, reason: str):
    with pytest.raises(UnreadableImage, match=reason):
        inspect(content)


def test_no_name_gets_into_a_record():
    facts, _ = inspect(file(picture(0), PatientID="Müller, 007", PatientName="Müller"))
    assert facts.format == "DICOM"
    assert "ller" not in facts.patient
    assert len(facts.patient) == len(facts.series) == 12
    assert facts.identifying == ("PatientName", "PatientID")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a DICOM set: two patients a class for training, two for the test."""
    folder = tmp_path_factory.mktemp("hospital")
    for split in ("train", "test"):
        for label in ("normal", "sick"):
            (folder / "set" / split / label).mkdir(parents=True)
            for index in range(16):
                plain = picture(index + 100 * (label == "sick") + 1000 * (split == "test"))
                if label == "sick":
                    plain[10:20, 10:20] = 4095
                kind = "MONOCHROME1" if index % 2 else "MONOCHROME2"
                content = file(
                    4095 - plain if index % 2 else plain, kind,
                    PatientID=f"{split}{label}{index // 13}", PatientName="Doe^Jane",
                    SeriesInstanceUID=f"1.2.{index // 4}",
                )  # fmt: skip
                name = f"{index:02}" + (".dcm" if index % 3 else "")
                (folder / "set" / split / label / name).write_bytes(content)
    project = new_project(
        folder / "project",
        "dataset=folder", "dataset.name=xrays", f"dataset.path={folder / 'set'}",
        "dataset.positive_class=sick", "image.height=40", "image.width=40", "image.channels=1",
        "training.epochs=2", "split.duplicate_distance=null", "serving.dicom=true",
        "promotion.minimum_accuracy=0", "promotion.minimum_sensitivity=0",
        "promotion.minimum_recall=0", "promotion.accept_shortcuts=[metadata,border]",
    )  # fmt: skip
    project.stages()
    return project


def test_patients_are_groups_and_identifying_tags_are_said(hospital: Project):
    output = hospital.command("split")
    assert "The DICOM files name 8 patients, which are the groups" in output
    assert "64 DICOM files have tags that may identify a person" in output
    rows = (hospital.folder / "build/split/manifest.csv").read_text()
    assert "Doe" not in rows
    assert "trainsick0" not in rows
    splits: dict[str, set[str]] = {}
    for row in rows.splitlines()[1:]:
        fields = row.split(",")
        splits.setdefault(fields[5], set()).add(fields[2])
    assert len(splits) == 8
    assert all(len(names) == 1 for names in splits.values())


def test_served_pixels_equal_the_trained_ones(hospital: Project):
    metadata = read_metadata(hospital.folder / "build/train/model")
    assert metadata.scale is not None
    assert metadata.scale[0] < 10
    assert metadata.scale[1] > 4085
    images = np.load(hospital.folder / "build/prepare/images.npy")
    rows = (hospital.folder / "build/split/manifest.csv").read_text().splitlines()[1:]
    files = [hospital.folder / "build/raw" / row.split(",")[0] for row in rows]
    for index, path in enumerate(files):
        assert (decode(path, metadata.rendering) == images[index]).all()
        assert (to_8_bits(values_of(path), metadata.scale) == images[index][:, :, 0]).all()

    name = "models:/xrays-classifier/1"
    table = hospital.command("predict", "--csv", "--model", name, *map(str, files[:6]))
    printed = list(csv.DictReader(table[table.index("path,label") :].splitlines()))
    command = ["image-classifier", "serve", "--model", name]
    png = io.BytesIO()
    Image.fromarray(images[0][:, :, 0]).save(png, "PNG")
    with running_server(command, "ping", hospital) as url:
        for content, row in ((files[0].read_bytes(), 0), (png.getvalue(), 0)):
            status, answer = classify(url, content)
            assert status == 200
            served = answer["predictions"][0]["probabilities"]["sick"]
            assert served == pytest.approx(float(printed[row]["p_sick"]), abs=1e-6)


@pytest.mark.slow
def test_dicom_is_not_taken_over_http_by_default(hospital: Project):
    params = hospital.folder / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("dicom: true", "dicom: false"))
    command = ["image-classifier", "serve", "--model", "models:/xrays-classifier/1"]
    try:
        with running_server(command, "ping", hospital) as url:
            status, answer = classify(url, file(picture(0)))
    finally:
        params.write_text(before)
    assert status == 400
    assert "a DICOM file: the setting serving.dicom does not allow it" in answer["message"]


def classify(url: str, content: bytes) -> tuple[int, dict]:
    text = base64.b64encode(content).decode()
    return post(url, {"dataframe_records": [{"image": text}]})
