"""What a header says of an object, however broken its values are."""

from __future__ import annotations

import builders as b
import pytest
from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from reslink.imaging.dicom.modality import is_head, is_without_pixels, series_exclusion_reason, stated_sequence


def header(**attributes: object) -> Dataset:
    return b.item(SOPClassUID=b.CT_CLASS, **attributes)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"BodyPartExamined": "BRAIN "}, True),
        ({"BodyPartExamined": "HEADNECK"}, False),
        ({"BodyPartExamined": "FOOT"}, False),
        ({"BodyPartExamined": "NEUROCRANIUM"}, True),
        ({"BodyPartExamined": "KOPF"}, True),
        ({"BodyPartExamined": "UNKNOWN"}, None),
        ({}, None),
        ({"AnatomicRegionSequence": b.sequence(CodeValue="69536005")}, True),
        ({"AnatomicRegionSequence": b.sequence(CodeValue="51185008")}, False),
        ({"AnatomicRegionSequence": b.sequence(CodeValue="51185008"), "BodyPartExamined": "HEAD"}, True),
    ],
)
def test_the_part_of_the_body(attributes: dict[str, object], wanted: bool | None) -> None:
    assert is_head(header(**attributes)) is wanted


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({}, None),
        ({"SOPClassUID": b.ENHANCED_CT}, None),
        ({"SOPClassUID": b.SC_CLASS}, "not a CT or MR image (Secondary Capture Image Storage)"),
        ({"SOPClassUID": "1.2.3"}, "not a CT or MR image (unknown SOP class)"),
        ({"ImageType": "SCOUT"}, "scout, not a slice"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, None),
        ({"BodyPartExamined": "CHEST"}, "its header states another part of the body"),
        ({"SOPClassUID": uid.MRImageStorage, "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "mosaic, not a slice"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "NORM"]}, "a computed map or phase image (ADC), not a slice"),
        ({"ImageType": ["DERIVED", "SECONDARY", "RELCBF"]}, "a computed map or phase image (RELCBF), not a slice"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "a computed map or phase image (P), not a slice"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]}, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, None),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN_SAVE"]}, "screen save, not a slice"),
        (
            {"SOPClassUID": uid.PositronEmissionTomographyImageStorage},
            "not a CT or MR image (Positron Emission Tomography Image Storage)",
        ),
        ({"SOPClassUID": uid.RTDoseStorage}, "not a CT or MR image (RT Dose Storage)"),
        ({"SOPClassUID": uid.SegmentationStorage}, "not a CT or MR image (Segmentation Storage)"),
        ({"Modality": "PT"}, "its header states the modality PT"),
        ({"Modality": "CT"}, None),
        ({"SOPClassUID": "", "Modality": "MR"}, None),
        ({"SOPClassUID": "", "Modality": "US"}, "not a CT or MR image (unknown SOP class)"),
    ],
)
def test_why_an_object_counts_for_no_series(attributes: dict[str, object], why: str | None) -> None:
    ds = header()
    ds.update(b.item(**attributes))
    assert series_exclusion_reason(ds) == why


@pytest.mark.parametrize(
    ("tag", "vr", "why"),
    [
        (0x00080070, "FL", "its header is broken"),
        (0x00082218, "US", None),
        (0x00180015, "FL", "its header is broken"),
        (0x00080008, "FL", "its header is broken"),
    ],
)
def test_a_broken_value_is_no_error(tag: int, vr: str, why: str | None) -> None:
    ds = header()
    value = b"12" if vr == "US" else b"abc"
    ds[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    assert series_exclusion_reason(ds) == why


@pytest.mark.parametrize(
    ("attributes", "sequence"),
    [
        ({}, None),
        ({"AcquisitionContrast": "FLUID_ATTENUATED"}, "FLAIR"),
        ({"AcquisitionContrast": "T2_STAR", "SeriesDescription": "t1"}, "T2*"),
        ({"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500, "ScanningSequence": ["SE", "IR"]}, "FLAIR"),
        ({"EchoTime": 390, "RepetitionTime": 5000, "InversionTime": 1800, "ScanningSequence": ["SE", "IR"]}, "FLAIR"),
        ({"EchoTime": 3, "RepetitionTime": 2000, "InversionTime": 900, "ScanningSequence": ["GR", "IR"]}, "T1"),
        ({"EchoTime": 10, "RepetitionTime": 550, "ScanningSequence": "SE"}, "T1"),
        ({"EchoTime": 100, "RepetitionTime": 5000, "ScanningSequence": "SE"}, "T2"),
        ({"EchoTime": 20, "RepetitionTime": 600, "ScanningSequence": "GR"}, "T2*"),
        ({"EchoTime": 90, "RepetitionTime": 5000, "DiffusionBValue": 1000.0, "ScanningSequence": "EP"}, "DWI"),
        ({"EchoTime": 90, "RepetitionTime": 5000, "ScanningSequence": "EP"}, None),
        ({"EchoTime": 25, "RepetitionTime": 2000, "InversionTime": 860, "SeriesDescription": "AX T1 FLAIR"}, "T1"),
        ({"SeriesDescription": "t2_tirm_tra_dark-fluid"}, "FLAIR"),
        ({"ProtocolName": "Ax T2 FLAIR"}, "FLAIR"),
        ({"SeriesDescription": "T1 MPRAGE post"}, "T1C+"),
        ({"SeriesDescription": "T1 pre"}, "T1"),
        ({"SeriesDescription": "T1", "ContrastBolusAgent": "GADAVIST"}, "T1C+"),
        ({"SeriesDescription": "T1", "ContrastBolusAgent": "No"}, "T1"),
        ({"SeriesDescription": "T1", "ContrastBolusAgent": ""}, None),
        ({"EchoTime": 10, "RepetitionTime": 550, "ScanningSequence": "SE", "ContrastBolusAgent": "Dotarem"}, "T1C+"),
        ({"SeriesDescription": "T2", "ContrastBolusAgent": "Dotarem"}, "T2"),
        ({"SeriesDescription": "T1 and T2"}, None),
        ({"Modality": "CT", "SeriesDescription": "T1"}, None),
        ({"EchoTime": 0, "RepetitionTime": 500}, "T1"),
        *[
            ({"EchoTime": 3.5, "RepetitionTime": 23, "ScanningSequence": "GR", "SeriesDescription": words}, None)
            for words in (
                *("TOF_3D_multi-slab", "3DTOF COW", "ce-MRA carotids", "MRV sagittal", "MR Angiography", "PC_3D venc30"),
                *("phase contrast", "gre_field_mapping", "T1 perfusion DCE", "Fieldmap", "pCASL", "B1 map"),
            )
        ],
        ({"EchoTime": 3.5, "RepetitionTime": 23, "ScanningSequence": "GR", "ProtocolName": "TOF"}, None),
        ({"EchoTime": 3.5, "RepetitionTime": 23, "ScanningSequence": "GR", "AngioFlag": "Y"}, None),
        ({"EchoTime": 3.5, "RepetitionTime": 23, "ScanningSequence": "GR", "AngioFlag": "N"}, "T1"),
        ({"EchoTime": 3.5, "RepetitionTime": 23, "ScanningSequence": "GR", "SeriesDescription": "T1 SPACE flow comp"}, "T1"),
        *[
            ({"SeriesDescription": words}, "T1")
            for words in ("sag T1-FLAIR", "sag T1 FLAIR", "T1_FLAIR", "T1FLAIR", "T1w-FLAIR", "t1_tirm_tra_dark-fluid")
        ],
        ({"SeriesDescription": "T2-FLAIR"}, "FLAIR"),
        ({"SeriesDescription": "T1 and FLAIR"}, "FLAIR"),
    ],
)
def test_the_sequence(attributes: dict[str, object], sequence: str | None) -> None:
    ds = b.item(**({"Modality": "MR"} | attributes))
    assert stated_sequence(ds) == sequence


def test_a_broken_sequence_is_no_error() -> None:
    ds = b.item(Modality="MR")
    ds[Tag(0x00180081)] = RawDataElement(Tag(0x00180081), "DS", 3, b"abc", 0, False, True)
    assert stated_sequence(ds) is None


def test_objects_without_pixels() -> None:
    reports = (uid.ComprehensiveSRStorage, uid.GrayscaleSoftcopyPresentationStateStorage, uid.KeyObjectSelectionDocumentStorage)
    others = (uid.EncapsulatedPDFStorage, uid.RTStructureSetStorage, uid.RTPlanStorage, uid.SpatialRegistrationStorage)
    assert all(map(is_without_pixels, (*reports, *others)))
    images = (
        b.CT_CLASS,
        uid.MRImageStorage,
        b.SC_CLASS,
        uid.SegmentationStorage,
        uid.RTDoseStorage,
        uid.RTImageStorage,
        "",
        "1.2.3",
    )
    assert not any(map(is_without_pixels, images))
