"""Names of what identifies are told, values never; a clean file has none."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from reslink.audit.identity import identifying_attributes
from reslink.datasets.phantom.writers import SliceInfo, write_dicom

CANARY = "Canary^Name"


def dicom(path: Path, **attributes: object) -> Path:
    pixels = np.zeros((32, 32), np.float32)
    dataset = dcmread(io.BytesIO(write_dicom(pixels, True, "CT", SliceInfo("P1", 0, 0.0, 1.0, 1.0, 50.0, 0))))
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def gray() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))


@pytest.mark.parametrize(
    "name",
    [
        "PatientName",
        "OtherPatientIDs",
        "InstitutionName",
        "ReferringPhysicianName",
        "OperatorsName",
        "StationName",
        "PatientComments",
        "ImageComments",
        "StudyDescription",
        "RequestingPhysician",
        "PatientAddress",
        "AccessionNumber",
    ],
)
def test_a_dicom_attribute_of_the_profile(tmp_path: Path, name: str) -> None:
    assert name in identifying_attributes(dicom(tmp_path / "a", **{name: CANARY}))
    assert name not in identifying_attributes(dicom(tmp_path / "b", **{name: ""}))


def test_dates_and_numbers_of_people_and_devices(tmp_path: Path) -> None:
    names = identifying_attributes(
        dicom(tmp_path / "a", PatientBirthDate="19500102", DeviceSerialNumber="77", StudyTime="120000")
    )
    assert {"PatientBirthDate", "DeviceSerialNumber", "StudyTime", "StudyInstanceUID"} <= set(names)


def test_what_stands_in_a_sequence(tmp_path: Path) -> None:
    kept = item(CodeMeaning="head", PatientName=CANARY, RequestedContrastAgent=CANARY)
    names = identifying_attributes(dicom(tmp_path / "a", ProcedureCodeSequence=Sequence([kept])))
    assert {"PatientName", "RequestedContrastAgent"} <= set(names)
    removed = identifying_attributes(
        dicom(tmp_path / "b", RequestAttributesSequence=Sequence([item(RequestedProcedureID="1")]))
    )
    assert "RequestAttributesSequence" in removed
    assert "RequestedProcedureID" not in removed


def test_what_does_not_identify_is_not_named(tmp_path: Path) -> None:
    names = identifying_attributes(dicom(tmp_path / "a", KVP="120", ConvolutionKernel="H30s"))
    assert not {"KVP", "ConvolutionKernel", "Rows", "PixelData", "Modality", "SOPClassUID"} & set(names)


def test_private_attributes_overlays_and_curves(tmp_path: Path) -> None:
    dataset = dcmread(dicom(tmp_path / "a"))
    dataset.private_block(0x0029, "MAKER", create=True).add_new(1, "LO", CANARY)
    dataset.add_new(0x60003000, "OW", b"\1\1")
    dataset.add_new(0x60004000, "LT", CANARY)
    dataset.add_new(0x50000005, "US", 2)
    dataset.save_as(tmp_path / "b")
    names = identifying_attributes(tmp_path / "b")
    assert names[-4:] != []
    assert "private attributes of group 0029" in names
    assert {"OverlayData", "OverlayComments", "CurveDimensions"} <= set(names)
    assert "MAKER" not in " ".join(names)


def test_uids_are_not_named_where_the_identity_was_removed(tmp_path: Path) -> None:
    told = identifying_attributes(dicom(tmp_path / "a", PatientIdentityRemoved="YES", PatientName=CANARY))
    assert "PatientName" in told
    assert not [name for name in told if name.endswith("UID")]


def test_burned_in_annotation_titles_and_preamble(tmp_path: Path) -> None:
    dataset = dcmread(dicom(tmp_path / "a", BurnedInAnnotation="YES"))
    dataset.file_meta.SourceApplicationEntityTitle = "WARD7"
    dataset.preamble = b"II*\0" + b"x" * 124
    dataset.save_as(tmp_path / "b")
    names = identifying_attributes(tmp_path / "b")
    assert {"BurnedInAnnotation", "SourceApplicationEntityTitle", "File Preamble"} <= set(names)


def test_no_value_is_ever_told(tmp_path: Path) -> None:
    names = ["PatientName", "PatientID", "InstitutionName", "StudyDescription", "OperatorsName", "PatientComments"]
    path = dicom(tmp_path / "a", **dict.fromkeys(names, CANARY))
    assert "Canary" not in " ".join(identifying_attributes(path))


def test_exif_comments_and_xmp_of_a_jpeg(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x013B] = CANARY
    exif[0x0112] = 1
    exif.get_ifd(0x8825)[1] = "N"
    gray().save(tmp_path / "a.jpg", exif=exif, comment=CANARY.encode(), xmp=b"<x>Canary</x>")
    names = identifying_attributes(tmp_path / "a.jpg")
    assert set(names) == {"EXIF Artist", "EXIF GPSInfo", "JPEG comment", "XMP"}


def test_data_behind_a_picture(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        gray().save(tmp_path / name)
        assert identifying_attributes(tmp_path / name) == []
        with (tmp_path / name).open("ab") as stream:
            stream.write(CANARY.encode())
        assert identifying_attributes(tmp_path / name) == ["data after the end of the picture"]


def test_texts_and_times_of_a_png(tmp_path: Path) -> None:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Author", CANARY)
    info.add_text(CANARY, "x", zip=True)
    info.add(b"tIME", struct.pack(">HBBBBB", 2020, 1, 1, 0, 0, 0))
    gray().save(tmp_path / "a.png", pnginfo=info, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    assert identifying_attributes(tmp_path / "a.png") == ["PNG text Author", "PNG text with a custom keyword", "PNG time"]


def test_tags_of_a_tiff_and_exif_of_a_webp(tmp_path: Path) -> None:
    gray().save(tmp_path / "a.tif", tiffinfo={315: CANARY, 306: "2020:01:01 00:00:00"})
    assert set(identifying_attributes(tmp_path / "a.tif")) == {"TIFF Artist", "TIFF DateTime"}
    exif = PIL.Image.Exif()
    exif[0x010E] = CANARY
    gray().convert("RGB").save(tmp_path / "a.webp", exif=exif, lossless=True)
    assert identifying_attributes(tmp_path / "a.webp") == ["EXIF ImageDescription"]


def test_texts_of_a_nifti_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((20, 20, 1), np.int16), np.eye(4))
    image.header["descrip"] = CANARY.encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(image, tmp_path / "a.nii")
    assert identifying_attributes(tmp_path / "a.nii") == ["NIfTI descrip", "NIfTI extension"]
    with (tmp_path / "b.nii.gz").open("wb") as raw, gzip.GzipFile(f"{CANARY}.nii", "wb", fileobj=raw) as stream:
        stream.write((tmp_path / "a.nii").read_bytes())
    assert identifying_attributes(tmp_path / "b.nii.gz") == ["gzip file name or comment", "NIfTI descrip", "NIfTI extension"]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0", b"\0" * 128 + b"DICM" + b"\xff" * 40])
def test_what_cannot_be_read_gives_no_names_and_no_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert identifying_attributes(tmp_path / "a") == []
    assert identifying_attributes(tmp_path / "missing") == []
