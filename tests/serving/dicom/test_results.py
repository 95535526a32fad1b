"""The report, the picture and the map of an answer."""

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
from reslink.serving.dicom.classify import answer, load_model
from reslink.serving.dicom.parametric_map import STEPS, quantised
from reslink.serving.dicom.results import BANNER, Naming, results
from reslink.serving.dicom.series import read_head


@pytest.fixture(scope="module", params=["CT", "T1"])
def told(request, bundle, tmp_path_factory):
    folder = pacs.write(tmp_path_factory.mktemp("series"), pacs.series(1, sequence=request.param))
    return answer(load_model(str(bundle)), read_head(folder))


@pytest.fixture(scope="module")
def made(told):
    return {result.kind: result for result in results(told)}


def read(result):
    return dcmread(io.BytesIO(result.content))


def test_every_result_is_valid(made, need_dciodvfy, tmp_path):
    assert list(made) == ["report", "picture", "map"]
    for kind, result in made.items():
        (tmp_path / kind).write_bytes(result.content)
        assert pacs.errors_of(tmp_path / kind) == []


def test_the_validator_sees_a_planted_fault(made, need_dciodvfy, tmp_path):
    dataset = read(made["report"])
    del dataset.CompletionFlag
    dataset.save_as(tmp_path / "bad.dcm")
    assert any("CompletionFlag" in line for line in pacs.errors_of(tmp_path / "bad.dcm"))


def test_the_slices_are_predicted_as_by_the_classifier(told, bundle, tmp_path):
    """The one way through: ``reslink predict`` says the same of the same files."""
    folder = pacs.write(tmp_path, pacs.series(1, sequence="CT" if told.series.modality == "CT" else "T1"))
    plain = list(Classifier.load(bundle, backend="onnxruntime").predict([folder]))
    assert len(plain) == len(told.predictions) == 10
    for ours, theirs in zip(told.predictions, plain, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities)


def test_every_result_belongs_to_the_patient_and_study_of_the_source(told, made):
    source = told.series.headers[0]
    for result in made.values():
        dataset = read(result)
        for word in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
            assert dataset[word].value == source[word].value, word
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
        assert dataset.Manufacturer == "reslink"
        assert "research use only" in dataset.SeriesDescription


def test_the_report_says_who_what_how_and_that_it_is_preliminary(told, made, tmp_path):
    path = tmp_path / "report.dcm"
    path.write_bytes(made["report"].content)
    report = srread(path)
    assert (report.PreliminaryFlag, report.VerificationFlag, report.CompletionFlag) == ("PRELIMINARY", "UNVERIFIED", "COMPLETE")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    texts = " ".join(item.TextValue for item in find_content_items(report, value_type=ValueTypeValues.TEXT, recursive=True))
    for words in (BANNER, told.model.weights, "Threshold: Tumor from 0.5000 on", told.study.rule, "does not cover errors"):
        assert words in texts
    kinds = [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in find_content_items(report, value_type=ValueTypeValues.CODE, recursive=True)
    ]
    assert "Device" in kinds
    assert "Imaging result abnormal" in kinds if told.study.label == "Tumor" else "Imaging result normal" in kinds
    numbers = find_content_items(report, value_type=ValueTypeValues.NUM, recursive=True)
    values = [float(item.MeasuredValueSequence[0].NumericValue) for item in numbers]
    expected = [told.study.probabilities["Healthy"], told.study.probabilities["Tumor"]]
    assert values[:2] == pytest.approx(expected, abs=1e-7)
    assert values[-10:] == pytest.approx([one.probabilities["Tumor"] for one in told.predictions], abs=1e-7)


def test_the_report_refers_to_the_slices_it_rests_on(told, made):
    evidence = read(made["report"]).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    named = {item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence}
    assert named == {header.SOPInstanceUID for header in told.series.headers}


def test_the_picture_has_the_banner_burned_in_above_and_below(made):
    picture = read(made["picture"]).pixel_array
    for band in (picture[:40], picture[-39:]):
        red, green, blue = np.moveaxis(band.astype(int), -1, 0)
        assert ((red > 150) & (green < 60) & (blue < 80)).mean() > 0.7
        assert (band.min(axis=2) > 200).mean() > 0.02, "no letters in the banner"


def test_the_map_lies_on_its_source(told, made):
    found = read(made["map"])
    assert (found.Rows, found.Columns, found.NumberOfFrames) == (128, 128, 10)
    assert found.FrameOfReferenceUID == told.series.headers[0].FrameOfReferenceUID
    assert found.ContentQualification == "RESEARCH"
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == pytest.approx([232 / 128] * 2, abs=1e-5)


def test_stored_values_come_back_to_within_half_a_step(rng):
    maps, seen = rng.normal(size=(3, 8, 8)).astype(np.float32), rng.random((3, 8, 8)) > 0.3
    stored, slope, low = quantised(maps, seen)
    assert np.abs(stored * slope + low - maps)[seen].max() <= slope / 2 + 1e-9
    assert (stored[~seen] == 0).all()
    assert stored.max() == STEPS


def test_a_flat_map_is_stored_too():
    stored, slope, low = quantised(np.full((1, 2, 2), 0.25, np.float32), np.ones((1, 2, 2), np.bool_))
    assert (stored.max(), low) == (0, 0.25)
    assert slope > 0


def test_uids_follow_from_slices_weights_and_settings(told):
    names = Naming(told)
    again = Naming(replace(told, series=replace(told.series, headers=tuple(reversed(told.series.headers)))))
    assert names.instance("map") == again.instance("map")
    fewer = Naming(replace(told, series=replace(told.series, headers=told.series.headers[:-1])))
    other = Naming(replace(told, model=replace(told.model, top=2)))
    ids = {made.instance(kind) for made in (names, fewer, other) for kind in ("map", "report", "picture")}
    assert len(ids) == 9
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in ids)


def test_another_map_can_be_asked_for(bundle, told):
    assert load_model(str(bundle)).map_name == "final_attention"
    with pytest.raises(UsageError, match=r"There is no map 'cams'.*Did you mean 'cam'"):
        load_model(str(bundle), "cams")
    cam = answer(load_model(str(bundle), "cam"), told.series)
    assert {result.kind for result in results(cam)} == {"report", "picture", "map"}


def test_a_bundle_is_asked_about_its_modality_only(bundle, told):
    for word, takes in (("CT", told.series.modality == "CT"), ("MR", told.series.modality == "MR")):
        assert load_model(f"{word}={bundle}").takes(told.series) is takes
    assert load_model(str(bundle)).takes(told.series)


def test_a_bundle_without_a_graph_is_refused(bundle, tmp_path):
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(bundle, plain)
    loaded = Bundle.load(plain)
    loaded.with_decision(loaded.decision)
    from safetensors.numpy import load_file

    Bundle(loaded.architecture, loaded.preprocess, loaded.labels, loaded.decision).save(
        tmp_path / "bare", load_file(plain / "model.safetensors")
    )
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        load_model(str(tmp_path / "bare"))


@pytest.mark.data
@pytest.mark.parametrize(("name", "slices"), [("ct_head", 30), ("mr_head", 24)])
def test_results_of_a_real_series_are_valid(shared_data, need_dciodvfy, bundle, tmp_path, name, slices):
    told = answer(load_model(str(bundle)), read_head(shared_data / "series" / name))
    assert len(told.series.headers) == slices
    assert told.study.ci_low is not None
    for result in results(told):
        (tmp_path / result.kind).write_bytes(result.content)
        assert pacs.errors_of(tmp_path / result.kind) == []
