"""The first elements of a DICOM file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders as b
import pytest
from pydicom import uid

from reslink.imaging.dicom.header import read_elements_until
from reslink.remote_files import START_BYTES, list_folder
from reslink.remote_paths import parse_remote

PATIENT_ID, STUDY_UID = 0x00100020, 0x0020000D


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian])
def test_the_elements_up_to_a_tag(syntax: uid.UID, tmp_path: Path) -> None:
    dataset = b.dataset(b.picture(), PatientID="p7", StudyInstanceUID="2.25.9")
    dataset.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "a.dcm"
    path.write_bytes(b.written(dataset))
    elements = read_elements_until(path, PATIENT_ID)
    assert elements is not None
    assert elements.PatientID == "p7"
    if syntax == uid.ExplicitVRLittleEndian:  # a deflated file is inflated as a whole
        assert "StudyInstanceUID" not in elements
        assert "PixelData" not in elements
    assert read_elements_until(path, STUDY_UID).StudyInstanceUID == "2.25.9"


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    path, dataset = tmp_path / "a", b.dataset(b.picture(), PatientID="p7")
    del dataset.file_meta
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    assert read_elements_until(path, PATIENT_ID).PatientID == "p7"


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM" + b"\xff" * 60])
def test_other_files_have_no_elements(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    assert not read_elements_until(tmp_path / "a.dcm", PATIENT_ID)
    assert read_elements_until(tmp_path / "missing.dcm", PATIENT_ID) is None


class TestRemote:
    """The start of a remote file is enough, unless an element before the last one is longer."""

    def listed(self, s3: Any, content: bytes) -> Path:
        s3.put("header/a.dcm", content)
        [path] = list_folder(parse_remote("s3://heads/header/")) or ()
        s3.reset()
        return path

    def test_a_header_in_the_start_costs_one_request_for_all_its_readers(self, s3: Any) -> None:
        content = b.written(b.dataset(b.picture(), PatientID="p7", StudyInstanceUID="2.25.9")) + bytes(START_BYTES)
        path = self.listed(s3, content)
        elements = read_elements_until(path, PATIENT_ID)
        assert (elements.PatientID, "StudyInstanceUID" in elements) == ("p7", False)
        assert read_elements_until(path, STUDY_UID).StudyInstanceUID == "2.25.9"
        assert s3.requests == [("GET", "/heads/header/a.dcm")]

    def test_a_long_element_before_the_last_one(self, s3: Any) -> None:
        dataset = b.dataset(b.picture(), PatientID="p7", StudyInstanceUID="2.25.9")
        dataset.add_new(0x00091001, "OB", bytes(2 * START_BYTES))
        path = self.listed(s3, b.written(dataset))
        assert read_elements_until(path, STUDY_UID).StudyInstanceUID == "2.25.9"
        assert len(s3.requests) == 2

    def test_a_file_that_ends_early_and_another_format(self, s3: Any) -> None:
        dataset = b.dataset(b.picture(), PatientID="p7")
        del dataset.PixelData
        last = max(element.tag for element in dataset)
        assert read_elements_until(self.listed(s3, b.written(dataset)), int(last)).PatientID == "p7"
        assert read_elements_until(self.listed(s3, b"\x89PNG\r\n\x1a\n" + bytes(9)), PATIENT_ID) is None
        assert len(s3.requests) == 1
