"""UIDs of results."""

from __future__ import annotations

from dataclasses import replace

import pacs
import pytest

from reslink.serving.dicom.classify import SeriesResult, load_model
from reslink.serving.dicom.identifiers import ResultUIDs
from reslink.serving.dicom.series import read_head_series


def test_uids_depend_on_slices_weights_and_settings(series_result):
    names = ResultUIDs(series_result)
    again = ResultUIDs(
        replace(series_result, series=replace(series_result.series, headers=tuple(reversed(series_result.series.headers))))
    )
    assert names.instance("map") == again.instance("map")
    fewer = ResultUIDs(replace(series_result, series=replace(series_result.series, headers=series_result.series.headers[:-1])))
    other = ResultUIDs(replace(series_result, model=replace(series_result.model, top=2)))
    ids = {uids.instance(kind) for uids in (names, fewer, other) for kind in ("map", "report", "picture")}
    assert len(ids) == 9
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientID": "SECRET0002"},
        {"PatientName": "SECRET^CORRECTED"},
        {"StudyInstanceUID": "2.25.77"},
        {"PixelData": lambda one: one.PixelData[:-2] + b"\1\0"},
        {"RescaleIntercept": -1000},
    ],
)
def test_a_corrected_series_has_other_uids(bundle, tmp_path, changes):
    """An archive would ignore results under the UIDs of those of the wrong patient, or file them there."""
    model, uids = load_model(str(bundle)), []
    for name, change in (("first", {}), ("again", {}), ("corrected", changes)):
        series = read_head_series(pacs.write(tmp_path / name, pacs.series(1, **change)))
        uids.append(ResultUIDs(SeriesResult(model, series, (), None, None, None)).instance("report"))
    assert uids[0] == uids[1] != uids[2]
