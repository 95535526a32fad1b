"""Reading of head series, and refusal of everything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pacs
import pytest
from pydicom import Dataset

from reslink.imaging.dicom.modality import header_exclusion_reason
from reslink.imaging.dicom.series import ALTERNATING_ACQUISITIONS
from reslink.imaging.limits import silence_warnings
from reslink.imaging.reading import read_series_files
from reslink.serving.dicom.series import RefusedSeriesError, read_head_series, series_key


def moved(one):
    """The slice positions of a tilted gantry: 4 mm up and 2 mm forward per slice."""
    x, y, z = (float(v) for v in one.ImagePositionPatient)
    return [x, y + z / 4 * 2, z]


@pytest.fixture
def folder(tmp_path):
    return lambda datasets: pacs.write(tmp_path / "series", datasets)


@pytest.mark.parametrize(("sequence", "modality"), [("CT", "CT"), ("T1", "MR")])
def test_a_head_is_read_in_order(folder, sequence, modality):
    series = read_head_series(folder(list(reversed(pacs.series(1, sequence=sequence)))))
    assert (series.modality, series.selected, series.notes) == (modality, tuple(range(10)), ())
    assert [int(header.InstanceNumber) for header in series.headers] == list(range(1, 11))
    assert series.key == series_key(pacs.series(1)[0].SeriesInstanceUID)
    first = pacs.series(1, sequence=sequence)[0]
    stored = first.pixel_array * float(first.get("RescaleSlope", 1)) + float(first.get("RescaleIntercept", 0))
    assert np.array_equal(series.slices[0].pixels, stored.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BodyPartExamined": "CHEST"}, "another part of the body"),
        ({"BodyPartExamined": "HEADNECK"}, "another part of the body"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "10 of its files left out: localizer, not a slice"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not a CT or MR image .Secondary Capture"),
        ({"Manufacturer": "reslink"}, "a result of this package"),
        ({"PixelSpacing": [4.0, 4.0]}, "the object in it measures [0-9]+ by [0-9]+ mm"),
        ({"PixelData": lambda one: bytes(len(one.PixelData))}, "no slice shows a head"),
        ({"PixelData": lambda one: one.PixelData[:100]}, "a file of the series cannot be read"),
        ({"ImagePositionPatient": [0, 0, 0]}, "have the same position"),
        ({"SOPClassUID": ""}, "10 of its files left out: its header has no SOPClassUID, by which results refer to it"),
        ({"StudyInstanceUID": None}, "its header has no StudyInstanceUID"),
        ({"SeriesInstanceUID": ""}, "its header has no SeriesInstanceUID"),
        ({"StudyInstanceUID": ["1.2", "1.3"]}, "its header has no StudyInstanceUID"),
        ({"RescaleType": "Z_EFF"}, "its header states that its values are Z_EFF, not HU"),
        ({"PatientID": lambda one: f"SECRET{int(one.InstanceNumber) > 5}"}, "belong to different series, studies or patients"),
        ({"StudyInstanceUID": lambda one: f"2.25.{one.InstanceNumber}"}, "belong to different series, studies or patients"),
        ({"FrameOfReferenceUID": lambda one: f"2.25.{one.InstanceNumber}"}, "its slices have several frames of reference"),
        ({"SOPInstanceUID": "2.25.1"}, "several of its slices have the same SOP Instance UID"),
    ],
)
def test_other_series_are_refused_without_patient_data(folder, changes, message):
    with pytest.raises(RefusedSeriesError, match=message) as caught:
        read_head_series(folder(pacs.series(1, **changes)))
    for word in ("SECRET", "2.25.", "/series"):
        assert word not in str(caught.value)


def test_a_series_of_mosaics_is_refused(folder):
    datasets = pacs.series(1)
    for one in datasets:
        one.PixelData = np.tile(one.pixel_array[::2, ::2], (2, 2)).tobytes()
    with pytest.raises(RefusedSeriesError, match="several heads in one picture"):
        read_head_series(folder(datasets))


def test_long_headers_stay_with_their_slices(folder):
    """File names are in reverse order, and a private value of 70 kB precedes the position."""
    slices = pacs.series(1)
    for one in slices:
        one.private_block(0x0019, "MAKER", create=True).add_new(1, "OB", bytes(70_000))
    series = read_head_series(folder(slices[::-1]))
    assert [int(header.InstanceNumber) for header in series.headers] == list(range(1, 11))
    for one, image in zip(slices, series.slices, strict=True):
        assert np.array_equal(image.pixels, one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept))


def test_a_file_of_two_frames_is_refused(folder):
    one = pacs.series(1)[5]
    one.NumberOfFrames, one.PixelData = 2, one.PixelData * 2
    with pytest.raises(RefusedSeriesError, match="one of its files has several frames"):
        read_head_series(folder([one]))


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
@pytest.mark.parametrize("modality", [None, "ct"])
def test_a_series_without_a_valid_modality_is_that_of_its_sop_class(folder, modality):
    expected = read_head_series(folder(pacs.series(1)))
    series = read_head_series(folder(pacs.series(1, Modality=modality)))
    assert (series.modality, series.slices[0].unit, series.selected) == ("CT", "HU", expected.selected)


def test_instances_with_changed_content_are_noted(folder):
    assert read_head_series(folder(pacs.series(1)), replaced=2).notes == (
        "2 of its instances arrived again with other content; the last ones are used",
    )


def test_a_localizer_among_slices_is_left_out(folder):
    slices = pacs.series(1)
    slices[4].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    series = read_head_series(folder(slices))
    assert len(series.headers) == 9
    assert series.notes[0] == "1 of its files left out: localizer, not a slice"
    assert "uneven" in series.notes[1]


def test_a_tilted_gantry_is_noted_and_handled(folder):
    series = read_head_series(folder(pacs.series(1, ImagePositionPatient=moved)))
    assert series.notes == ("tilted gantry (27 degrees): slices are classified without correction",)
    assert len(series.selected) == 10


def test_acquisitions_at_alternating_positions_are_noted(folder):
    datasets = pacs.series(1, AcquisitionNumber=lambda one: int(one.InstanceNumber) % 2)
    assert read_head_series(folder(datasets)).notes == (ALTERNATING_ACQUISITIONS,)


def test_an_unstated_body_part_is_noted(folder):
    assert read_head_series(folder(pacs.series(1, BodyPartExamined=""))).notes == ("the header does not state the body part",)


def test_the_notes_of_the_images_are_notes_of_the_series(folder, monkeypatch):
    def read(paths, where):
        image, ordered = read_series_files(paths, where)
        return replace(image, notes=("the orientation is not stated",)), ordered

    monkeypatch.setattr("reslink.serving.dicom.series.read_series_files", read)
    assert read_head_series(folder(pacs.series(1))).notes == ("the orientation is not stated",)


def test_a_coded_region_replaces_a_missing_body_part(folder):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "69536005", "SCT", "Head"
    assert read_head_series(folder(pacs.series(1, BodyPartExamined="", AnatomicRegionSequence=[item]))).notes == ()
    item.CodeValue = "51185008"
    with pytest.raises(RefusedSeriesError, match="another part"):
        read_head_series(folder(pacs.series(1, BodyPartExamined="", AnatomicRegionSequence=[item])))


def test_slices_with_little_of_the_head_are_not_selected(folder):
    slices = pacs.series(1)
    small = np.full((128, 128), 0, np.uint16)
    whole = slices[0].pixel_array
    small[60:90, 50:80] = whole[60:90, 50:80]
    slices[0].PixelData = small.tobytes()
    assert read_head_series(folder(slices)).selected == tuple(range(1, 10))


def test_invalid_header_values_become_empty(folder):
    with silence_warnings():  # pydicom warns about them
        series = read_head_series(folder(pacs.series(1, StudyDate="2020.1.1", PatientSex="X", StudyTime="12")))
    header = series.headers[0]
    assert (header.StudyDate, header.PatientSex, header.StudyTime) == ("", "", "12")
    assert header.AccessionNumber == ""


def test_results_of_reslink_are_recognized():
    header = Dataset()
    header.SOPClassUID, header.Manufacturer = "1.2.840.10008.5.1.4.1.1.2", " RESLINK "
    assert header_exclusion_reason(header) == "a result of this package"
    header.Manufacturer = "else"
    assert header_exclusion_reason(header) is None
