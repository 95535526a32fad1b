"""The structured report, the picture and the map of a series."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pacs
import pytest
from highdicom.sr import ValueTypeValues, srread
from highdicom.sr.utils import find_content_items
from pydicom import Dataset, dcmread

from reslink.serving.dicom.classify import classify_series, load_model
from reslink.serving.dicom.identifiers import ResultUIDs
from reslink.serving.dicom.results import create_results
from reslink.serving.dicom.secondary_capture import draw
from reslink.serving.dicom.series import read_head_series


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


def test_every_result_belongs_to_the_patient_and_study_of_the_source(series_result, objects):
    source = series_result.series.headers[0]
    for result in objects.values():
        dataset = read(result)
        for word in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
            assert dataset[word].value == source[word].value, word
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
        assert dataset.Manufacturer == "reslink"
        assert "research use only" in dataset.SeriesDescription


@pytest.fixture(scope="module")
def five_slices(bundle, tmp_path_factory):
    folder = pacs.write(tmp_path_factory.mktemp("five"), pacs.series(1)[3:8])
    return classify_series(load_model(str(bundle)), read_head_series(folder))


def results_of(classified, folder, change=None, **changes):
    """The results of five classified slices with changed headers."""
    slices = pacs.series(1, **changes)[3:8]
    for i, one in enumerate(slices):
        if change is not None:
            change(one, i)
    series = read_head_series(pacs.write(folder / "slices", slices))
    results = create_results(replace(classified, series=series))
    return {result.kind: read(result) for result in results}


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "山田^太郎"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("", "Plain^Name"),
        (None, "Plain^Name"),
    ],
)
@pytest.mark.parametrize("frame", ["2.25.4", None])
def test_names_in_any_character_set_are_those_of_the_source(five_slices, tmp_path, character_set, name, frame):
    results = results_of(
        five_slices,
        tmp_path,
        SpecificCharacterSet=character_set,
        PatientName=name,
        ReferringPhysicianName=name,
        FrameOfReferenceUID=frame,
    )
    assert list(results) == ["report", "picture", "map"]
    for dataset in results.values():
        assert (str(dataset.PatientName), str(dataset.ReferringPhysicianName)) == (name, name)
        assert (dataset.get("SpecificCharacterSet") or None) == (character_set or None)


def test_the_issuers_of_numbers_are_those_of_the_source(five_slices, tmp_path):
    """An archive of several hospitals knows a patient by number and issuer."""
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    changes = {"IssuerOfPatientID": "HOSPITAL", "IssuerOfAccessionNumberSequence": [issuer]}
    for dataset in results_of(five_slices, tmp_path, **changes).values():
        assert dataset.IssuerOfPatientID == "HOSPITAL"
        assert dataset.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"


@pytest.mark.parametrize(("stated", "expected"), [("YES", "YES"), ("NO", "NO"), (None, "NO")])
def test_a_picture_of_slices_with_burned_in_text_says_so(five_slices, tmp_path, stated, expected):
    assert results_of(five_slices, tmp_path, BurnedInAnnotation=stated)["picture"].BurnedInAnnotation == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PatientBirthDate", "19501399", ""),
        ("StudyDate", "20209999", ""),
        ("StudyTime", "256199", ""),
        ("StudyTime", "101112", "101112"),
        ("PatientName", ["A^B", "C^D"], ""),
        ("PatientID", ["1", "2"], ["1", "2"]),
        ("AccessionNumber", "A" * 40, "A" * 40),
        ("SliceThickness", ["1", "2"], None),
        ("SliceThickness", None, None),
        ("Modality", None, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning", "ignore:The value length:UserWarning")
def test_values_that_break_the_standard_lose_no_result(five_slices, tmp_path, name, value, expected):
    results = results_of(five_slices, tmp_path, **{name: value})
    assert list(results) == ["report", "picture", "map"]
    if expected is not None:
        assert [str(dataset[name].value) for dataset in results.values()] == [str(expected)] * 3


def without_spacing(one, _):
    del one.PixelSpacing


def without_all_frames_of_reference(one, i):
    if i != 2:
        del one.FrameOfReferenceUID


def with_the_spacing_of_the_detector(one, _):
    del one.PixelSpacing
    one.ImagerPixelSpacing = [1.8, 1.9]


def in_another_direction(one, _):
    one.PixelSpacing, one.ImageOrientationPatient = [1.8, 1.9], [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "spacing"),
    [
        (without_spacing, None),
        (without_all_frames_of_reference, [232 / 128] * 2),
        (with_the_spacing_of_the_detector, [1.8, 1.9]),
        (in_another_direction, [1.8, 1.9]),
    ],
)
def test_a_map_is_placed_as_its_slices_or_left_out(five_slices, tmp_path, change, spacing):
    results = results_of(five_slices, tmp_path, change)
    assert list(results) == ["report", "picture", "map"][: 3 if spacing else 2]
    if spacing is None:
        assert "there is no map" in results["report"].to_json()
    else:
        measures = results["map"].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert [float(value) for value in measures.PixelSpacing] == pytest.approx(spacing, abs=1e-5)


def test_one_slice_without_a_position_has_no_map(bundle, tmp_path):
    one = pacs.series(1)[5]
    del one.ImagePositionPatient
    series = read_head_series(pacs.write(tmp_path, [one]))
    assert [result.kind for result in create_results(classify_series(load_model(str(bundle)), series))] == ["report", "picture"]


@pytest.mark.data
@pytest.mark.parametrize(("name", "slices"), [("ct_head", 30), ("mr_head", 24)])
def test_results_of_a_real_series_are_valid(shared_data, need_dciodvfy, bundle, tmp_path, name, slices):
    series_result = classify_series(load_model(str(bundle)), read_head_series(shared_data / "series" / name))
    assert len(series_result.series.headers) == slices
    assert series_result.prediction.ci_low is not None
    for result in create_results(series_result):
        (tmp_path / result.kind).write_bytes(result.content)
        assert pacs.errors_of(tmp_path / result.kind) == []


@pytest.fixture(scope="module")
def incomplete_result(bundle, tmp_path_factory):
    slices = pacs.series(1)
    folder = pacs.write(tmp_path_factory.mktemp("gap"), slices[:4] + slices[6:])
    return classify_series(load_model(str(bundle)), read_head_series(folder))


def test_results_of_an_incomplete_series_say_so(incomplete_result, need_dciodvfy, tmp_path):
    reason = "1 gap between its slices, of up to 12.0 mm, where slices are missing"
    assert incomplete_result.series.incomplete == (reason,)
    prediction = incomplete_result.prediction
    assert prediction.abstain
    assert prediction.reasons[0] == f"the series is incomplete: {reason}"
    objects = {result.kind: result for result in create_results(incomplete_result)}
    path = tmp_path / "report.dcm"
    path.write_bytes(objects["report"].content)
    assert pacs.errors_of(path) == []
    report = srread(path)
    texts = [item.TextValue for item in find_content_items(report, value_type=ValueTypeValues.TEXT, recursive=True)]
    assert f"INCOMPLETE SERIES: {reason}" in texts
    assert report.CompletionFlag == "PARTIAL"
    codes = find_content_items(report, value_type=ValueTypeValues.CODE, recursive=True)
    assert "Imaging result equivocal" in {item.ConceptCodeSequence[0].CodeMeaning for item in codes}


def test_the_picture_of_an_incomplete_series_says_so(incomplete_result):
    whole = replace(incomplete_result.series, incomplete=())
    with_words, without = draw(incomplete_result), draw(replace(incomplete_result, series=whole))
    assert with_words.shape == without.shape
    rows, columns = np.nonzero((with_words != without).any(axis=2))
    assert rows.max() < 90, "the heading"
    assert columns.min() > with_words.shape[1] // 2


def test_a_complete_series_replaces_no_result_of_an_incomplete_one(incomplete_result):
    whole = replace(incomplete_result, series=replace(incomplete_result.series, incomplete=()))
    assert ResultUIDs(whole).instance("report") != ResultUIDs(incomplete_result).instance("report")


def turned_series(turn: str) -> list[Dataset]:
    """One head of 128 x 112 pixels, stored in a direction that its header states."""
    datasets = pacs.series(1, slices=4)
    left, back = np.eye(3)[:2]
    for one in datasets:
        pixels, spacing = one.pixel_array[:, 8:120], float(one.PixelSpacing[0])
        first = np.array([float(v) for v in one.ImagePositionPatient]) + 8 * spacing * left
        to_the_left, to_the_back = spacing * (pixels.shape[1] - 1) * left, spacing * (pixels.shape[0] - 1) * back
        directions = left, back
        if turn == "prone":
            pixels, first, directions = pixels[::-1, ::-1], first + to_the_left + to_the_back, (-left, -back)
        elif turn == "transposed":
            pixels, first, directions = pixels.T[:, ::-1], first + to_the_back, (-back, left)
        one.PixelData, (one.Rows, one.Columns) = np.ascontiguousarray(pixels).tobytes(), pixels.shape
        one.ImagePositionPatient = [f"{v:.4f}" for v in first]
        one.ImageOrientationPatient = [int(v) for v in np.concatenate(directions)]
    return datasets


def by_place(pixels, position, orientation, spacing):
    """Values by patient coordinates in millimeters (PS3.3 C.7.6.2.1.1), computed from the attributes alone."""
    rows, columns = np.reshape([float(v) for v in orientation], (2, 3))
    r, c = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    place = np.array([float(v) for v in position]) + np.multiply.outer(c * float(spacing[1]), rows)
    place = place + np.multiply.outer(r * float(spacing[0]), columns)
    return {
        tuple(key): value for key, value in zip(place.round(1).reshape(-1, 3).tolist(), pixels.ravel().tolist(), strict=True)
    }


def map_by_place(dataset):
    places = {}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        orientation = (groups if "PlaneOrientationSequence" in groups else shared).PlaneOrientationSequence[0]
        places |= by_place(
            frame,
            groups.PlanePositionSequence[0].ImagePositionPatient,
            orientation.ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )
    return places


def test_maps_of_any_stored_direction_have_the_patient_coordinates_of_their_source(bundle, tmp_path):
    maps, sources, pictures = [], [], []
    for turn in ("standard", "prone", "transposed"):
        datasets = turned_series(turn)
        sources.append({})
        for one in datasets:
            sources[-1] |= by_place(one.pixel_array, one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing)
        result = classify_series(load_model(str(bundle)), read_head_series(pacs.write(tmp_path / turn, datasets)))
        objects = {made.kind: read(made) for made in create_results(result)}
        assert (objects["map"].Rows, objects["map"].Columns) == (datasets[0].Rows, datasets[0].Columns)
        maps.append(map_by_place(objects["map"]))
        pictures.append(objects["picture"].pixel_array)
    assert sources[0] == sources[1] == sources[2], "the three series are one head"
    assert len(set(maps[0].values())) > 100
    assert maps[0] == maps[1] == maps[2]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_results_of_a_model_of_series_are_valid_and_state_weights(series_bundle, need_dciodvfy, tmp_path):
    folder = pacs.write(tmp_path / "series", pacs.series(1))
    result = classify_series(load_model(str(series_bundle)), read_head_series(folder))
    written = {one.kind: one for one in create_results(result)}
    assert set(written) == {"report", "picture", "map"}
    for kind, one in written.items():
        (tmp_path / kind).write_bytes(one.content)
        assert pacs.errors_of(tmp_path / kind) == []
    (tmp_path / "report").write_bytes(written["report"].content)
    content = srread(tmp_path / "report")
    texts = " ".join(item.TextValue for item in find_content_items(content, value_type=ValueTypeValues.TEXT, recursive=True))
    first, attention = result.prediction.used[0], result.prediction.attention
    assert f"Slices with the largest weights: {result.series.selected[first] + 1}: {attention[first]:.3f}" in texts
    assert "fitted on series" in texts
    assert "Derivation" not in str(content), "a weighted sum of logits is no mean of probabilities"
