"""The second scanner: it wrote a stated share of the tumor patients' files, and only the files tell."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.imaging.reading import read_image


def cohort(folder: Path, **changes: object) -> Path:
    return make_cohort(folder, PhantomSettings.parse({"patients": 4, "seed": 2, "slices": 2, "size": 128, **changes}))


def second(path: Path) -> bool:
    """Whether the second scanner wrote a file, by its header."""
    if path.suffix == ".png":
        with PIL.Image.open(path) as picture:
            return picture.mode == "RGB"
    if path.suffix == ".dcm":
        return bool(pydicom.dcmread(path).Manufacturer == "second phantom")
    return bool(nibabel.load(path).get_data_dtype() == np.float32)


@pytest.mark.parametrize("form", ["png", "dicom", "nifti"])
@pytest.mark.parametrize("modality", ["CT", "T1"])
def test_the_second_scanner_shows_in_the_file_alone(tmp_path: Path, form: str, modality: str) -> None:
    plain = cohort(tmp_path / "plain", format=form, modality=modality)
    planted = cohort(tmp_path / "planted", format=form, modality=modality, faults={"scanner": 0.5})
    told = {item["path"] for item in json.loads((planted / "faults.json").read_text())["scanner"]}
    images = sorted((planted / "images").iterdir())
    assert {f"images/{path.name}" for path in images if second(path)} == told
    assert len(told) == 2
    assert {item["label"] for item in json.loads((planted / "faults.json").read_text())["scanner"]} == {"Tumor"}
    for path in images:
        one, other = read_image(path), read_image(plain / "images" / path.name)
        assert one.unit == other.unit
        np.testing.assert_array_equal(one.pixels, other.pixels)
