"""Header features: included and excluded information."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image as Picture

from reslink.audit.features.header import header_features
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Picture.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (96, 128), np.uint8)


def test_size_mode_and_quality_of_a_picture(tmp_path: Path, noise: np.ndarray) -> None:
    good, poor = (header_features(save(tmp_path / f"{q}.jpg", noise, quality=q)) for q in (95, 40))
    assert (good["format"], good["width"], good["height"], good["mode"]) == ("JPEG", 128, 96, "L")
    assert good["aspect"] == pytest.approx(128 / 96)
    assert good["JPEG tables"] != poor["JPEG tables"]
    assert poor["JPEG quantization"] > good["JPEG quantization"]  # type: ignore[operator]
    assert header_features(save(tmp_path / "c.png", np.stack([noise] * 3, axis=2)))["mode"] == "RGB"


def test_the_content_of_the_picture_does_not_change_the_features(tmp_path: Path, noise: np.ndarray) -> None:
    plain = save(tmp_path / "plain.jpg", np.full_like(noise, 7), quality=80)
    detailed = save(tmp_path / "detailed.jpg", noise, quality=80)
    assert plain.stat().st_size < detailed.stat().st_size
    assert header_features(plain) == header_features(detailed)


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_slices_of_one_scanner_have_equal_features(tmp_path: Path, form: str) -> None:
    make_cohort(tmp_path, PhantomSettings.parse({"patients": 2, "slices": 2, "size": 128, "format": form}))
    features = [header_features(path) for path in sorted((tmp_path / "images").iterdir())]
    assert len(features) == 4
    assert features[0] == features[1]


def test_scanner_tags_are_included_and_patient_tags_are_not(tmp_path: Path) -> None:
    make_cohort(tmp_path, PhantomSettings.parse({"patients": 1, "slices": 1, "size": 128, "format": "dicom"}))
    [path] = (tmp_path / "images").iterdir()
    before = header_features(path)
    item = pydicom.dcmread(path)
    item.PatientAge, item.PatientSex, item.PatientName, item.StudyDate = "077Y", "F", "Doe^Jane", "20200101"
    item.WindowCenter, item.SliceLocation, item.InstanceNumber = "11", "12.5", "9"
    item.save_as(path)
    assert header_features(path) == before
    item.ManufacturerModelName = "Other Model"
    item.save_as(path)
    assert header_features(path) == before | {"ManufacturerModelName": "other model"}


def test_a_broken_header_is_a_feature(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    assert header_features(path) == {"format": "PNG", "header": "cannot be read"}


@pytest.mark.parametrize("value", ["1e60", "-1e31"])
def test_huge_numbers_are_excluded(tmp_path: Path, value: str) -> None:
    make_cohort(tmp_path, PhantomSettings.parse({"patients": 1, "slices": 1, "size": 128, "format": "dicom"}))
    [path] = (tmp_path / "images").iterdir()
    item = pydicom.dcmread(path)
    item.RepetitionTime = value
    item.EchoTime = "11.5"
    item.save_as(path)
    features = header_features(path)
    assert "RepetitionTime" not in features
    assert features["EchoTime"] == 11.5


def test_numbers_that_are_not_finite_are_excluded(tmp_path: Path) -> None:
    make_cohort(tmp_path, PhantomSettings.parse({"patients": 1, "slices": 1, "size": 128, "format": "nifti"}))
    [path] = (tmp_path / "images").iterdir()
    image = nibabel.load(path)
    image.header["pixdim"][3] = np.nan
    nibabel.save(image, path)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[76 + 12 : 76 + 16] = np.float32(np.nan).tobytes()
    path.write_bytes(gzip.compress(bytes(data)))
    assert "pixdim 3" not in header_features(path)
    assert "pixdim 2" in header_features(path)
