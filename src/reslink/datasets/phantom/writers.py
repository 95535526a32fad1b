"""Writers of phantom slices as PNG, DICOM or NIfTI; equal arrays give equal bytes."""

from __future__ import annotations

import gzip
import io
import uuid
from dataclasses import dataclass
from typing import Literal

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pydicom.uid
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

from reslink.datasets.phantom.tissue import MR_SCALE

FileFormat = Literal["png", "dicom", "nifti"]
SUFFIXES: dict[FileFormat, str] = {"png": ".png", "dicom": ".dcm", "nifti": ".nii.gz"}

Field = NDArray[np.float32]

_NAMESPACE = uuid.UUID("6f0f3c1e-5d0b-5a57-9f1c-2f1a3a7c9d10")
BRAIN_WINDOW = (40.0, 80.0)
"""Center and width in HU of the window for CT slices written as PNG."""


@dataclass(frozen=True)
class SliceInfo:
    """Metadata of a slice for its file header.

    Attributes:
        patient_id: Patient id, such as ``P0001``.
        number: Slice number of the patient, from 0.
        position: Height in mm.
        spacing: Distance of pixel centers in mm.
        thickness: Slice thickness in mm.
        age: Age of the patient in years.
        seed: Seed of the cohort, from which UIDs are derived.
        second_scanner: Whether the file is from the second scanner (``PlantedFaults.scanner``).
    """

    patient_id: str
    number: int
    position: float
    spacing: float
    thickness: float
    age: float
    seed: int
    second_scanner: bool = False


def to_gray(pixels: Field, ct: bool) -> NDArray[np.uint8]:
    """Returns a slice as 8-bit gray values: brain window for CT, white matter at 45 % of white for MR.

    Args:
        pixels: (N, N) HU or MR intensity.
        ct: Whether the pixels are HU.
    """
    low, high = (BRAIN_WINDOW[0] - BRAIN_WINDOW[1] / 2, BRAIN_WINDOW[0] + BRAIN_WINDOW[1] / 2) if ct else (0.0, MR_SCALE / 0.45)
    return np.asarray(np.round(np.clip((pixels - low) / (high - low), 0, 1) * 255), np.uint8)


def write_png(gray: NDArray[np.uint8], as_rgb: bool = False) -> bytes:
    """Encodes an 8-bit image or mask as PNG, optionally as RGB with three equal channels."""
    stream = io.BytesIO()
    picture = PIL.Image.fromarray(gray)
    (picture.convert("RGB") if as_rgb else picture).save(stream, "PNG")
    return stream.getvalue()


def write_nifti(pixels: Field | NDArray[np.uint8], info: SliceInfo) -> bytes:
    """Encodes a slice (H, W) or a volume (D, H, W) as NIfTI-1 in RAS+ orientation, without a time stamp in the gzip header."""
    kind = np.uint8 if pixels.dtype == np.uint8 else np.float32 if info.second_scanner else np.int16
    stored = np.round(pixels).astype(kind)
    volume = np.stack([plane.T[::-1, ::-1] for plane in (stored if stored.ndim == 3 else stored[None])], axis=2)
    affine = np.diag([info.spacing, info.spacing, info.thickness, 1.0])
    height, width = stored.shape[-2:]
    affine[:3, 3] = [-info.spacing * (width - 1) / 2, -info.spacing * (height - 1) / 2, info.position]
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _uid(*parts: object) -> pydicom.uid.UID:
    """Returns a UID below 2.25 derived from the parts (DICOM PS3.5 B.2)."""
    return pydicom.uid.UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}")


def write_dicom(pixels: Field, ct: bool, sequence: str, info: SliceInfo) -> bytes:
    """Encodes a slice as CT or MR Image Storage, Explicit VR Little Endian (DICOM PS3.3 A.3 and A.4).

    CT is stored as unsigned 12 bits with a rescale to HU of intercept −1024; MR as unsigned 16 bits.

    Args:
        pixels: (N, N) HU or MR intensity.
        ct: Whether the pixels are HU.
        sequence: Name of the contrast, for the series description.
        info: Metadata of the slice.
    """
    kind = "CT" if ct else "MR"
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage if ct else pydicom.uid.MRImageStorage
    item.file_meta.MediaStorageSOPInstanceUID = _uid(info.seed, sequence, info.patient_id, info.number)
    item.file_meta.ImplementationClassUID = _uid("reslink phantom")
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID
    _add_patient(item, sequence, info)
    item.Modality = kind
    item.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if ct else ["ORIGINAL", "PRIMARY", "M", "SE"]
    _add_geometry(item, info, pixels.shape[0], pixels.shape[1])
    if ct:
        item.KVP = "120"
        item.RescaleIntercept, item.RescaleSlope, item.RescaleType = "-1024", "1", "HU"
        item.WindowCenter, item.WindowWidth = str(int(BRAIN_WINDOW[0])), str(int(BRAIN_WINDOW[1]))
    else:
        item.ScanningSequence, item.SequenceVariant, item.ScanOptions, item.MRAcquisitionType = "SE", "NONE", "", "2D"
        item.EchoTime, item.RepetitionTime, item.EchoTrainLength = None, None, None
    if info.second_scanner:
        item.Manufacturer, item.ManufacturerModelName = "second phantom", "second"
        item.ScanOptions = "HELICAL" if ct else "SAT"
        if ct:
            item.ConvolutionKernel = "SECOND"
    bits = 12 if ct else 16
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, bits, bits - 1, 0
    stored = np.clip(np.round(pixels + (1024 if ct else 0)), 0, 2**bits - 1).astype("<u2")
    item.PixelData = stored.tobytes()
    stream = io.BytesIO()
    item.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _add_patient(item: Dataset, sequence: str, info: SliceInfo) -> None:
    item.PatientName, item.PatientID = "PHANTOM", info.patient_id
    item.PatientBirthDate, item.PatientSex, item.PatientAge = "", "O", f"{round(info.age):03d}Y"
    item.StudyDate, item.StudyTime, item.AccessionNumber, item.ReferringPhysicianName = "20000101", "000000", "", ""
    item.StudyID, item.SeriesNumber, item.InstanceNumber = "1", "1", str(info.number + 1)
    item.Manufacturer, item.SeriesDescription = "reslink phantom", f"synthetic {sequence}, not a person"
    item.StudyInstanceUID = _uid(info.seed, sequence, info.patient_id, "study")
    item.SeriesInstanceUID = _uid(info.seed, sequence, info.patient_id, "series")
    item.FrameOfReferenceUID = _uid(info.seed, sequence, info.patient_id, "frame")
    item.PositionReferenceIndicator = ""
    item.PatientPosition = "HFS"


def _add_geometry(item: Dataset, info: SliceInfo, rows: int, columns: int) -> None:
    corner = [-info.spacing * (columns - 1) / 2, -info.spacing * (rows - 1) / 2, info.position]
    item.ImagePositionPatient = [f"{value:.4f}" for value in corner]
    item.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    item.SliceLocation = f"{info.position:.4f}"
    item.PixelSpacing = [f"{info.spacing:.6f}"] * 2
    item.SliceThickness = f"{info.thickness:.2f}"
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows, item.Columns = rows, columns
