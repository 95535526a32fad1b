"""The structured report of a series."""

from __future__ import annotations

import io

import pytest
from highdicom.sr import ValueTypeValues, srread
from highdicom.sr.utils import find_content_items
from pydicom import dcmread

from reslink.serving.dicom.identifiers import BANNER


def read(result):
    return dcmread(io.BytesIO(result.content))


def test_the_report_states_device_model_and_preliminary_status(series_result, objects, tmp_path):
    path = tmp_path / "report.dcm"
    path.write_bytes(objects["report"].content)
    report = srread(path)
    assert (report.PreliminaryFlag, report.VerificationFlag, report.CompletionFlag) == ("PRELIMINARY", "UNVERIFIED", "COMPLETE")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    texts = " ".join(item.TextValue for item in find_content_items(report, value_type=ValueTypeValues.TEXT, recursive=True))
    for words in (
        BANNER,
        series_result.model.weights,
        "Threshold: Tumor 0.500",
        series_result.prediction.rule,
        "does not cover errors",
    ):
        assert words in texts
    kinds = [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in find_content_items(report, value_type=ValueTypeValues.CODE, recursive=True)
    ]
    assert "Device" in kinds
    assert "Imaging result abnormal" in kinds if series_result.prediction.label == "Tumor" else "Imaging result normal" in kinds
    numbers = find_content_items(report, value_type=ValueTypeValues.NUM, recursive=True)
    values = [float(item.MeasuredValueSequence[0].NumericValue) for item in numbers]
    expected = [series_result.prediction.probabilities["Healthy"], series_result.prediction.probabilities["Tumor"]]
    assert values[:2] == pytest.approx(expected, abs=1e-7)
    assert values[-10:] == pytest.approx([one.probabilities["Tumor"] for one in series_result.slice_predictions], abs=1e-7)


def test_the_report_references_its_slices(series_result, objects):
    evidence = read(objects["report"]).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    named = {item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence}
    assert named == {header.SOPInstanceUID for header in series_result.series.headers}
