"""A series with missing slices is recognized, and a complete one of any kind is not."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from reslink.serving.dicom.completeness import missing_slices


def headers(positions: list[float], numbers: list[int] | None = None, **attributes: object) -> list[Dataset]:
    made = []
    for index, position in enumerate(positions):
        header = Dataset()
        header.ImagePositionPatient, header.ImageOrientationPatient = [0.0, 0.0, position], [1, 0, 0, 0, 1, 0]
        header.SliceThickness = 5.0
        if numbers is not None:
            header.InstanceNumber = numbers[index]
        for name, value in attributes.items():
            setattr(header, name, value)
        made.append(header)
    return made


EVEN = [5.0 * i for i in range(20)]
COMPLETE = {
    "even": headers(EVEN),
    "one slice": headers([0.0]),
    "two slices": headers([0.0, 30.0]),
    "two distances": headers([2.5 * i for i in range(10)] + [25 + 5.0 * i for i in range(10)]),
    "distances that grow": headers([0, 3, 6, 9, 13, 17, 21, 26, 31, 36]),
    "interleaved numbers": headers(EVEN, [*range(1, 21, 2), *range(2, 21, 2)]),
    "reversed numbers": headers(EVEN, list(range(20, 0, -1))),
    "gaps between thick slices": headers([12.0 * i for i in range(8)], list(range(1, 9))),
    "numbers in tens": headers(EVEN, list(range(10, 201, 10))),
    "stated distance is a gap": headers(EVEN, SpacingBetweenSlices=1.0),
    "stated number": headers(EVEN, NumberOfSeriesRelatedInstances=20),
    "two acquisitions": headers(EVEN[:10], ImagesInAcquisition=10, AcquisitionNumber=1)
    + headers(EVEN[10:], ImagesInAcquisition=10, AcquisitionNumber=2),
    "more than stated": headers(EVEN, ImagesInAcquisition=1),
    "stated as text": headers(EVEN, ImagesInAcquisition=""),
    "time series": headers([0.0, 0.0, 5.0, 5.0, 10.0, 10.0, 15.0, 15.0]),
    "no positions": [Dataset() for _ in range(5)],
}
INCOMPLETE = {
    "one missing": headers(EVEN[:7] + EVEN[8:]),
    "two neighbors missing": headers(EVEN[:7] + EVEN[9:]),
    "two apart missing": headers(EVEN[:7] + EVEN[8:9] + EVEN[10:]),
    "second missing": headers(EVEN[:1] + EVEN[2:]),
    "two of twenty": headers([EVEN[3], EVEN[17]], [4, 18]),
    "every second": headers(EVEN[::2], list(range(1, 21, 2))),
    "thin slices stated": headers([0.0, 5.0, 15.0], SpacingBetweenSlices=5.0) + headers([20.0, 25.0], SpacingBetweenSlices=5.0),
    "stated distance at one end": headers([0.0, 5.0, 10.0, 20.0, 30.0], SpacingBetweenSlices=5.0),
    "stated number": headers(EVEN[:10], NumberOfSeriesRelatedInstances=20),
    "stated in one header": [*headers(EVEN[:9]), *headers([45.0], NumberOfSeriesRelatedInstances="20")],
    "stated by the acquisition": headers(EVEN[:10], ImagesInAcquisition=20, AcquisitionNumber=1),
    "one of two acquisitions": headers(EVEN[:10], ImagesInAcquisition=10, AcquisitionNumber=1)
    + headers(EVEN[10:19], ImagesInAcquisition=10, AcquisitionNumber=2),
}


@pytest.mark.parametrize("slices", COMPLETE.values(), ids=COMPLETE.keys())
def test_a_complete_series_is_complete(slices: list[Dataset]) -> None:
    assert missing_slices(slices, len(slices)) == []
    assert missing_slices(slices[::-1], len(slices)) == []


@pytest.mark.parametrize("slices", INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_missing_slices_are_recognized(slices: list[Dataset]) -> None:
    assert len(missing_slices(slices, len(slices))) == 1
    assert len(missing_slices(slices[::-1], len(slices))) == 1


def test_instances_that_are_no_slices_count_as_arrived() -> None:
    slices = headers(EVEN, NumberOfSeriesRelatedInstances=22)
    assert missing_slices(slices, 22) == []
    assert missing_slices(slices, 21) == ["its headers state 22 instances, 21 arrived"]
