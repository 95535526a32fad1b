"""The first elements of a DICOM file."""

from __future__ import annotations

from pathlib import Path

import builders as b
import pytest
from pydicom import uid

from reslink.imaging.dicom.header import read_elements_until

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
