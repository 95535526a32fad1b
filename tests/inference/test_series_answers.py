"""Answers for series: volumes, and DICOM slices in folders."""

from __future__ import annotations

import shutil
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

from reslink.errors import UsageError
from reslink.imaging.dicom.series import ALTERNATING_ACQUISITIONS
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.slice_selection import select_slices
from reslink.inference.classifier import Classifier
from reslink.inference.series import aggregate_slices
from reslink.inference.series_answers import SeriesAnswer, predict_series

sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
from builders import dataset, written

POSITIONS = (20.0, 0.0, 30.0, 10.0, 40.0)
"""Slice position by the order of the file names."""


def head(level: float, radius: float = 30.0) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    pixels = np.full((96, 96), -1000.0)
    pixels[np.hypot((y - 48) / 1.2, x - 48) < radius] = 60
    pixels[np.hypot((y - 48) / 1.2, x - 48) < radius - 4] = level
    return pixels


def write_series(folder: Path, positions=POSITIONS, uid: str | None = None, **changes: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    for i, z in enumerate(positions):
        fields = {
            "SeriesInstanceUID": uid,
            "SOPInstanceUID": f"2.25.{i + 1}",
            "SOPClassUID": CTImageStorage,
            "Modality": "CT",
            "BodyPartExamined": "HEAD",
            "ImagePositionPatient": [-90.0, -90.0, z],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [2.0, 2.0],
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        } | changes
        (folder / f"{i}.dcm").write_bytes(written(dataset((head(10 + 2 * z) + 1024).astype(np.uint16), **fields)))


def run(classifier: Classifier, *sources: object, mode: str = "auto") -> list:
    return [prediction for prediction, _ in predict_series(classifier, sources, mode=mode)]


def test_a_series_in_a_folder_is_ordered_numbered_and_answered(classifier, tmp_path):
    write_series(tmp_path / "s")
    *slices, answer = run(classifier, tmp_path / "s")
    assert [(Path(p.path).name, p.slice) for p in slices] == [(f"{i}.dcm", k) for k, i in enumerate(np.argsort(POSITIONS))]
    assert isinstance(answer, SeriesAnswer)
    assert (answer.path, answer.slice) == (str(tmp_path / "s"), None)
    assert answer.files == tuple(p.path for p in slices)
    expected = aggregate_slices(slices, classifier.bundle.decision, selected=range(5))
    assert (answer.label, answer.probabilities, answer.result) == (expected.label, expected.probabilities, expected)
    assert answer.as_dict()["series"]["used"] == list(expected.used)


def test_the_answer_is_that_of_the_dicom_node(classifier, tmp_path):
    from reslink.serving.dicom.series import read_head_series

    write_series(tmp_path / "s", positions=[float(z) for z in range(0, 70, 5)], StudyInstanceUID=generate_uid())
    [answer] = run(classifier, tmp_path / "s", mode="only")
    series = read_head_series(tmp_path / "s")
    slices = [prediction for image in series.slices for prediction in classifier.predict(image)]
    node = aggregate_slices(slices, classifier.bundle.decision, selected=series.selected)
    assert answer.probabilities == pytest.approx(node.probabilities, abs=1e-6)
    assert (answer.result.slices, answer.result.used) == (node.slices, node.used)


@pytest.mark.parametrize(("mode", "slices", "series"), [("auto", 5, 1), ("each", 5, 0), ("only", 0, 1)])
def test_the_modes(classifier, tmp_path, mode, slices, series):
    write_series(tmp_path / "s")
    predictions = run(classifier, tmp_path / "s", mode=mode)
    kinds = [isinstance(prediction, SeriesAnswer) for prediction in predictions]
    assert kinds == [False] * slices + [True] * series


def test_a_volume_is_a_series_and_a_single_image_is_not(classifier, tmp_path, pictures):
    np.save(tmp_path / "v.npy", np.stack([head(40), head(60), head(20)]).clip(0, 255).astype(np.uint8))
    predictions = run(classifier, pictures[0], tmp_path / "v.npy", pictures[1])
    assert [(Path(p.path).name, p.slice) for p in predictions] == [
        (pictures[0].name, None),
        *[("v.npy", i) for i in range(3)],
        ("v.npy", None),
        (pictures[1].name, None),
    ]
    only = run(classifier, pictures[0], tmp_path / "v.npy", mode="only")
    assert [isinstance(p, SeriesAnswer) for p in only] == [False, True]
    assert only[1] == predictions[4]


def test_two_series_and_a_lone_slice_in_one_folder(classifier, tmp_path):
    write_series(tmp_path / "s")
    write_series(tmp_path / "other", (5.0, 1.0))
    write_series(tmp_path / "one", (5.0,))
    for name in ("other", "one"):
        for file in (tmp_path / name).iterdir():
            shutil.move(file, tmp_path / "s" / f"{name}{file.name}")
    auto, only = (run(classifier, tmp_path / "s", mode=mode) for mode in ("auto", "only"))
    answers = [p for p in auto if isinstance(p, SeriesAnswer)]
    assert sorted(len(p.files) for p in answers) == [2, 5]
    assert [Path(p.path).name for p in only if not isinstance(p, SeriesAnswer)] == ["one0.dcm"]
    assert [p for p in only if isinstance(p, SeriesAnswer)] == answers


def test_files_given_one_by_one_keep_their_order_and_are_answered_last(classifier, tmp_path, pictures):
    write_series(tmp_path / "s")
    files = sorted((tmp_path / "s").iterdir())
    *slices, answer = run(classifier, *files[:3], pictures[0], *files[3:])
    assert [p.path for p in slices] == [str(p) for p in (*files[:3], pictures[0], *files[3:])]
    assert [p.slice for p in slices] == [None] * 6
    [from_folder] = run(classifier, tmp_path / "s", mode="only")
    assert answer == from_folder


def test_a_series_over_several_folders_has_one_answer(classifier, tmp_path):
    uid = generate_uid()
    write_series(tmp_path / "all" / "a", (0.0, 10.0), uid)
    write_series(tmp_path / "all" / "b", (20.0, 30.0), uid)
    [answer] = run(classifier, tmp_path / "all", mode="only")
    assert (answer.path, answer.result.slices) == (str(tmp_path / "all"), 4)


@pytest.mark.parametrize(
    ("changes", "positions", "reason"),
    [
        ({}, (0.0, 10.0, 10.0), "several of its slices have the same position"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, (0.0, 10.0), "localizer"),
    ],
)
def test_a_refused_series_says_why(classifier, tmp_path, changes, positions, reason):
    write_series(tmp_path / "s", positions, **changes)
    answer = run(classifier, tmp_path / "s", mode="only")[-1]
    assert isinstance(answer, SeriesAnswer)
    assert answer.label is None
    assert reason in (answer.error or "; ".join(answer.reasons))


def test_a_series_without_a_head_has_no_answer(classifier, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((3, 64, 64), np.uint8))
    *_, answer = run(classifier, tmp_path / "v.npy")
    assert "no answer for the series of 3 slices" in answer.error


def test_acquisitions_at_alternating_positions_are_noted(classifier, tmp_path):
    write_series(tmp_path / "s")
    for number, path in enumerate(sorted((tmp_path / "s").iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])):
        dataset = dcmread(path)
        dataset.AcquisitionNumber = 1 + number % 2
        dataset.save_as(path)
    [answer] = run(classifier, tmp_path / "s", mode="only")
    assert answer.label is not None
    assert answer.notes[-1] == ALTERNATING_ACQUISITIONS


def test_a_gap_is_warned_of(classifier, tmp_path):
    write_series(tmp_path / "s", (0.0, 10.0, 20.0, 40.0, 50.0))
    with pytest.warns(ImagingWarning, match="slices may be missing"):
        run(classifier, tmp_path / "s")


def test_slices_that_do_not_show_the_head_are_not_averaged(classifier, tmp_path):
    planes = [head(60, 30), head(20, 30), head(250, 8)]
    np.save(tmp_path / "v.npy", np.stack(planes).clip(0, 255).astype(np.uint8))
    *slices, answer = run(classifier, tmp_path / "v.npy")
    assert answer.result.slices == 2
    assert answer.result == aggregate_slices(slices, classifier.bundle.decision, selected=select_slices([100, 100, 5]))


def test_an_unknown_mode_is_refused(classifier):
    with pytest.raises(UsageError, match="no mode for series 'al'"):
        predict_series(classifier, [], mode="al")


def test_only_series_keep_no_images_in_memory(classifier, tmp_path, monkeypatch):
    write_series(tmp_path / "s")
    write_series(tmp_path / "s" / "z", positions=(0.0,))
    alive, images, predict_slices = [], [], classifier.predict_slices

    def watched(*args, **options):
        for member in predict_slices(*args, **options):
            images.append(weakref.ref(member[1].image))
            yield member
            del member
            alive.append(sum(image() is not None for image in images))

    monkeypatch.setattr(classifier, "predict_slices", watched)
    stream = predict_series(classifier, [tmp_path / "s"], batch_size=1, mode="only", keep_images=True)
    answers = [(Path(prediction.path).name, image is not None) for prediction, image in stream]
    assert answers == [("0.dcm", True), ("s", False)], "a slice outside a series keeps its image"
    assert len(alive) == 6
    assert max(alive) <= 3
