"""What a header says of an object, however broken its values are."""

from __future__ import annotations

import builders as b
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from reslink.imaging.dicom.modality import is_head, series_exclusion_reason


def header(**attributes: object) -> Dataset:
    return b.item(SOPClassUID=b.CT_CLASS, **attributes)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"BodyPartExamined": "BRAIN "}, True),
        ({"BodyPartExamined": "HEADNECK"}, False),
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
