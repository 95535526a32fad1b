"""UIDs of results."""

from __future__ import annotations

from dataclasses import replace

from reslink.serving.dicom.identifiers import ResultUIDs


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
