"""A file is read and parsed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.audit.features.content import FileContent
from reslink.audit.features.header import header_features
from reslink.audit.features.image import plane_of_file
from reslink.audit.identity import identifying_attributes
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.writers import SliceInfo, write_dicom


def test_content_is_that_of_the_file(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    content = FileContent.read(tmp_path / "a.png")
    assert (content.format, content.data) == ("PNG", (tmp_path / "a.png").read_bytes())
    (tmp_path / "b").write_bytes(b"text")
    assert FileContent.read(str(tmp_path / "b")) == FileContent(b"text", "unknown")


def test_a_folder_and_a_large_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_bytes(b"text")
    monkeypatch.setattr("reslink.audit.features.content.MAX_FILE_BYTES", 3)
    assert FileContent.read(tmp_path / "b") == FileContent(b"", "large")
    assert FileContent.read(tmp_path) == FileContent(b"", "folder")


def test_all_features_of_a_dicom_file_need_one_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slice.dcm"
    info = SliceInfo("P0001", 0, 0.0, 1.0, 5.0, 60.0, 1)
    path.write_bytes(write_dicom(render_slice(1, 1, sequence="CT", size=64).pixels, True, "CT", info))
    expected = header_features(path), identifying_attributes(path), plane_of_file(path)
    from reslink.imaging.dicom import file_format

    parsed, parse = [], file_format.parse_dataset
    monkeypatch.setattr(file_format, "parse_dataset", lambda *a: parsed.append(a) or parse(*a))
    content = FileContent.read(path)
    assert (header_features(content), identifying_attributes(content), plane_of_file(content)) == expected
    assert (expected[0]["format"], expected[2]) == ("DICOM", "axial")
    assert "PatientID" in expected[1]
    assert len(parsed) == 1
