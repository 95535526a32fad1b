"""Which received files are slices of a head, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pacs
import pytest
from pydicom import Dataset

from reslink.imaging.dicom.modality import refusal_of
from reslink.imaging.limits import quiet
from reslink.serving.dicom.series import RefusedSeries, key_of, read_head


def moved(one):
    """A position 4 mm up and 2 mm forward for each slice, as a tilted gantry has it."""
    x, y, z = (float(v) for v in one.ImagePositionPatient)
    return [x, y + z / 4 * 2, z]


@pytest.fixture
def folder(tmp_path):
    return lambda datasets: pacs.write(tmp_path / "series", datasets)


@pytest.mark.parametrize(("sequence", "modality"), [("CT", "CT"), ("T1", "MR")])
def test_a_head_is_read_in_order(folder, sequence, modality):
    found = read_head(folder(list(reversed(pacs.series(1, sequence=sequence)))))
    assert (found.modality, found.chosen, found.notes) == (modality, tuple(range(10)), ())
    assert [int(header.InstanceNumber) for header in found.headers] == list(range(1, 11))
    assert found.key == key_of(pacs.series(1)[0].SeriesInstanceUID)
    first = pacs.series(1, sequence=sequence)[0]
    stored = first.pixel_array * float(first.get("RescaleSlope", 1)) + float(first.get("RescaleIntercept", 0))
    assert np.array_equal(found.slices[0].pixels, stored.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BodyPartExamined": "CHEST"}, "another part of the body"),
        ({"BodyPartExamined": "HEADNECK"}, "another part of the body"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "10 of its files left out: localizer, not a slice"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not an image of CT or MR .Secondary Capture"),
        ({"Manufacturer": "reslink"}, "a result of this package"),
        ({"PixelSpacing": [4.0, 4.0]}, "what it shows is [0-9]+ by [0-9]+ mm"),
        ({"PixelData": lambda one: bytes(len(one.PixelData))}, "no head was found"),
        ({"PixelData": lambda one: one.PixelData[:100]}, "a file of the series cannot be read"),
        ({"ImagePositionPatient": [0, 0, 0]}, "lie in the same place"),
    ],
)
def test_what_is_no_head_is_refused_and_nobody_is_named(folder, changes, message):
    with pytest.raises(RefusedSeries, match=message) as caught:
        read_head(folder(pacs.series(1, **changes)))
    for word in ("SECRET", "2.25.", "/series"):
        assert word not in str(caught.value)


def test_each_header_belongs_to_its_slice_however_long_it_is(folder):
    """Files whose names fall as their places rise, with a private value of 70 kB before the place."""
    slices = pacs.series(1)
    for one in slices:
        one.private_block(0x0019, "MAKER", create=True).add_new(1, "OB", bytes(70_000))
    found = read_head(folder(slices[::-1]))
    assert [int(header.InstanceNumber) for header in found.headers] == list(range(1, 11))
    for one, image in zip(slices, found.slices, strict=True):
        assert np.array_equal(image.pixels, one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept))


def test_a_localiser_among_slices_is_left_out(folder):
    slices = pacs.series(1)
    slices[4].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    found = read_head(folder(slices))
    assert len(found.headers) == 9
    assert found.notes[0] == "1 of its files left out: localizer, not a slice"
    assert "uneven" in found.notes[1]


def test_a_tilted_gantry_is_noted_and_handled(folder):
    found = read_head(folder(pacs.series(1, ImagePositionPatient=moved)))
    assert found.notes == ("tilted gantry (27 degrees): slices are classified as they are",)
    assert len(found.chosen) == 10


def test_an_unstated_body_part_is_noted(folder):
    assert read_head(folder(pacs.series(1, BodyPartExamined=""))).notes == (
        "the header does not say which part of the body it is of",
    )


def test_a_coded_region_counts_where_no_body_part_is_stated(folder):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "69536005", "SCT", "Head"
    assert read_head(folder(pacs.series(1, BodyPartExamined="", AnatomicRegionSequence=[item]))).notes == ()
    item.CodeValue = "51185008"
    with pytest.raises(RefusedSeries, match="another part"):
        read_head(folder(pacs.series(1, BodyPartExamined="", AnatomicRegionSequence=[item])))


def test_slices_with_little_of_the_head_are_not_chosen(folder):
    slices = pacs.series(1)
    small = np.full((128, 128), 0, np.uint16)
    whole = slices[0].pixel_array
    small[60:90, 50:80] = whole[60:90, 50:80]
    slices[0].PixelData = small.tobytes()
    assert read_head(folder(slices)).chosen == tuple(range(1, 10))


def test_values_that_no_result_could_carry_are_emptied(folder):
    with quiet():  # pydicom warns of them
        found = read_head(folder(pacs.series(1, StudyDate="2020.1.1", PatientSex="X", StudyTime="12")))
    header = found.headers[0]
    assert (header.StudyDate, header.PatientSex, header.StudyTime) == ("", "", "12")
    assert header.AccessionNumber == ""


def test_a_result_of_ours_is_known_whatever_it_claims_to_be():
    header = Dataset()
    header.SOPClassUID, header.Manufacturer = "1.2.840.10008.5.1.4.1.1.2", " RESLINK "
    assert refusal_of(header) == "a result of this package"
    header.Manufacturer = "else"
    assert refusal_of(header) is None
