"""The structured report, the picture and the map of a series."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pacs
import pytest
from highdicom.sr import ValueTypeValues, srread
from highdicom.sr.utils import find_content_items
from pydicom import dcmread

from reslink.bundles.bundle import Bundle
from reslink.errors import BundleError, UsageError
from reslink.inference.classifier import Classifier
from reslink.serving.dicom.classify import classify_series, load_model
from reslink.serving.dicom.identifiers import BANNER, ResultUIDs
from reslink.serving.dicom.parametric_map import STEPS, quantize
from reslink.serving.dicom.results import create_results
from reslink.serving.dicom.series import read_head_series


@pytest.fixture(scope="module", params=["CT", "T1"])
def series_result(request, bundle, tmp_path_factory):
    folder = pacs.write(tmp_path_factory.mktemp("series"), pacs.series(1, sequence=request.param))
    return classify_series(load_model(str(bundle)), read_head_series(folder))


@pytest.fixture(scope="module")
def objects(series_result):
    return {result.kind: result for result in create_results(series_result)}


def read(result):
    return dcmread(io.BytesIO(result.content))


def test_every_result_is_valid(objects, need_dciodvfy, tmp_path):
    assert list(objects) == ["report", "picture", "map"]
    for kind, result in objects.items():
        (tmp_path / kind).write_bytes(result.content)
        assert pacs.errors_of(tmp_path / kind) == []


def test_the_validator_detects_a_missing_attribute(objects, need_dciodvfy, tmp_path):
    dataset = read(objects["report"])
    del dataset.CompletionFlag
    dataset.save_as(tmp_path / "bad.dcm")
    assert any("CompletionFlag" in line for line in pacs.errors_of(tmp_path / "bad.dcm"))


def test_slice_predictions_equal_those_of_the_classifier(series_result, bundle, tmp_path):
    """``reslink predict`` gives the same predictions for the same files."""
    folder = pacs.write(tmp_path, pacs.series(1, sequence="CT" if series_result.series.modality == "CT" else "T1"))
    expected = list(Classifier.load(bundle, backend="onnxruntime").predict([folder]))
    assert len(expected) == len(series_result.slice_predictions) == 10
    for ours, theirs in zip(series_result.slice_predictions, expected, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities)


def test_every_result_belongs_to_the_patient_and_study_of_the_source(series_result, objects):
    source = series_result.series.headers[0]
    for result in objects.values():
        dataset = read(result)
        for word in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
            assert dataset[word].value == source[word].value, word
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
        assert dataset.Manufacturer == "reslink"
        assert "research use only" in dataset.SeriesDescription


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
        "Threshold: Tumor 0.5000",
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


def test_the_picture_has_a_banner_at_top_and_bottom(objects):
    picture = read(objects["picture"]).pixel_array
    for band in (picture[:40], picture[-39:]):
        red, green, blue = np.moveaxis(band.astype(int), -1, 0)
        assert ((red > 150) & (green < 60) & (blue < 80)).mean() > 0.7
        assert (band.min(axis=2) > 200).mean() > 0.02, "no text in the banner"


def test_the_map_has_the_geometry_of_its_source(series_result, objects):
    map_dataset = read(objects["map"])
    assert (map_dataset.Rows, map_dataset.Columns, map_dataset.NumberOfFrames) == (128, 128, 10)
    assert map_dataset.FrameOfReferenceUID == series_result.series.headers[0].FrameOfReferenceUID
    assert map_dataset.ContentQualification == "RESEARCH"
    measures = map_dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == pytest.approx([232 / 128] * 2, abs=1e-5)


def test_stored_values_have_an_error_of_at_most_half_a_step(rng):
    maps, inside = rng.normal(size=(3, 8, 8)).astype(np.float32), rng.random((3, 8, 8)) > 0.3
    stored, slope, low = quantize(maps, inside)
    assert np.abs(stored * slope + low - maps)[inside].max() <= slope / 2 + 1e-9
    assert (stored[~inside] == 0).all()
    assert stored.max() == STEPS


def test_a_constant_map_can_be_stored():
    stored, slope, low = quantize(np.full((1, 2, 2), 0.25, np.float32), np.ones((1, 2, 2), np.bool_))
    assert (stored.max(), low) == (0, 0.25)
    assert slope > 0


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


def test_another_map_can_be_selected(bundle, series_result):
    assert load_model(str(bundle)).map_name == "final_attention"
    with pytest.raises(UsageError, match=r"map 'cams' does not exist.*Did you mean 'cam'"):
        load_model(str(bundle), "cams")
    cam = classify_series(load_model(str(bundle), "cam"), series_result.series)
    assert {result.kind for result in create_results(cam)} == {"report", "picture", "map"}


def test_a_prefix_restricts_the_modality(bundle, series_result):
    for word, accepts in (("CT", series_result.series.modality == "CT"), ("MR", series_result.series.modality == "MR")):
        assert load_model(f"{word}={bundle}").accepts(series_result.series) is accepts
    assert load_model(str(bundle)).accepts(series_result.series)


def test_a_bundle_without_an_onnx_model_is_refused(bundle, tmp_path):
    import shutil

    bundle_copy = tmp_path / "plain"
    shutil.copytree(bundle, bundle_copy)
    loaded = Bundle.load(bundle_copy)
    loaded.with_decision(loaded.decision)
    from safetensors.numpy import load_file

    Bundle(loaded.architecture, loaded.preprocess, loaded.labels, loaded.decision).save(
        tmp_path / "bare", load_file(bundle_copy / "model.safetensors")
    )
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        load_model(str(tmp_path / "bare"))


@pytest.mark.data
@pytest.mark.parametrize(("name", "slices"), [("ct_head", 30), ("mr_head", 24)])
def test_results_of_a_real_series_are_valid(shared_data, need_dciodvfy, bundle, tmp_path, name, slices):
    series_result = classify_series(load_model(str(bundle)), read_head_series(shared_data / "series" / name))
    assert len(series_result.series.headers) == slices
    assert series_result.prediction.ci_low is not None
    for result in create_results(series_result):
        (tmp_path / result.kind).write_bytes(result.content)
        assert pacs.errors_of(tmp_path / result.kind) == []
