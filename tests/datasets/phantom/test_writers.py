"""The files of a phantom cohort: the same bytes, readable in each format, each fault at its share."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
from numpy.typing import NDArray

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort, render_patient
from reslink.datasets.phantom.faults import PlantedFaults
from reslink.errors import StorageError, UsageError


def _settings(**changes: object) -> PhantomSettings:
    return PhantomSettings.parse({"patients": 6, "seed": 5, "slices": 2, "size": 128, **changes})


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _digests(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _gray(path: Path) -> NDArray[np.uint8]:
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def test_manifest_names_what_was_written(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path / "cohort", _settings())
    rows = _rows(folder)
    assert list(rows[0]) == ["path", "label", "patient_id", "mask"]
    assert len(rows) == 12
    assert len({row["patient_id"] for row in rows if row["label"] == "Tumor"}) == 3
    for row in rows:
        assert (folder / row["path"]).is_file()
        assert _gray(folder / row["path"]).shape == (128, 128)
        assert bool(row["mask"]) == (row["label"] == "Tumor")
        if row["mask"]:
            mask = _gray(folder / row["mask"])
            assert set(np.unique(mask)) == {0, 255}
            assert (mask > 0).sum() >= 30
    assert not (folder / "faults.json").exists()


@pytest.mark.parametrize("form", ["png", "dicom", "nifti"])
def test_same_settings_write_the_same_bytes(tmp_path: Path, form: str) -> None:
    settings = _settings(patients=2, format=form, faults={"duplicates": 0.5})
    one = make_cohort(tmp_path / "one", settings, workers=1)
    two = make_cohort(tmp_path / "two", settings, workers=2)
    assert _digests(one) == _digests(two)
    other = make_cohort(tmp_path / "other", settings.model_copy(update={"seed": 6}))
    assert _digests(one)["images/P0001_00" + Path(_rows(one)[0]["path"]).name[8:]] not in _digests(other).values()


def test_an_earlier_cohort_is_replaced_whole(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, _settings(faults={"text": 1.0}))
    make_cohort(folder, _settings(patients=2), overwrite=True)
    assert len(list((folder / "images").iterdir())) == 4
    assert not (folder / "faults.json").exists()


def test_an_earlier_cohort_is_kept_without_overwrite(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, _settings())
    before = _digests(folder)
    with pytest.raises(
        UsageError, match=r"already holds a phantom cohort.*not overwritten without --overwrite.*add --overwrite"
    ):
        make_cohort(folder, _settings(patients=2))
    assert _digests(folder) == before


def test_an_unfinished_cohort_is_replaced(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, _settings())
    (folder / "manifest.csv").unlink()
    make_cohort(folder, _settings(patients=2))
    assert len(list((folder / "images").iterdir())) == 4


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"do not belong to a phantom cohort.*Choose another folder"):
        make_cohort(tmp_path, _settings())
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_path_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, UsageError), match="file"):
        make_cohort(tmp_path / "file", _settings())


def test_progress_counts_patients(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_cohort(tmp_path, _settings(patients=3), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_dicom_ct_has_hounsfield_units_and_positions(tmp_path: Path) -> None:
    settings = _settings(patients=2, format="dicom", tumor_share=1.0)
    folder = make_cohort(tmp_path, settings)
    items = [pydicom.dcmread(folder / row["path"]) for row in _rows(folder)]
    first = items[0]
    assert first.SOPClassUID == pydicom.uid.CTImageStorage
    assert str(first.PatientName) == "PHANTOM"
    assert all(item.SOPInstanceUID.startswith("2.25.") and item.SOPInstanceUID.is_valid for item in items)
    assert len({item.SOPInstanceUID for item in items}) == 4
    assert len({item.SeriesInstanceUID for item in items}) == 2
    assert items[1].ImagePositionPatient[2] > first.ImagePositionPatient[2]
    truth = render_patient(settings.seed, 1, tumor=True, slices=2, size=128).slices[0]
    hu = first.pixel_array * float(first.RescaleSlope) + float(first.RescaleIntercept)
    np.testing.assert_allclose(hu, np.clip(truth.pixels, -1024, 3071), atol=0.51)
    assert first.PixelSpacing[0] == pytest.approx(truth.spacing, abs=1e-5)


def test_dicom_mr_is_mr_image_storage(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, _settings(patients=1, format="dicom", modality="FLAIR", tumor_share=0.0))
    item = pydicom.dcmread(folder / _rows(folder)[0]["path"])
    assert item.SOPClassUID == pydicom.uid.MRImageStorage
    assert item.Modality == "MR"
    assert "RescaleSlope" not in item
    assert item.pixel_array.max() > 500


def test_nifti_is_canonical_and_its_mask_fits(tmp_path: Path) -> None:
    settings = _settings(patients=1, format="nifti", tumor_share=1.0)
    folder = make_cohort(tmp_path, settings)
    row = _rows(folder)[0]
    image, mask = nibabel.load(folder / row["path"]), nibabel.load(folder / row["mask"])
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.shape == mask.shape == (128, 128, 1)
    np.testing.assert_array_equal(image.affine, mask.affine)
    truth = render_patient(settings.seed, 1, tumor=True, slices=2, size=128).slices[0]
    shown = np.asarray(image.dataobj)[::-1, ::-1, 0].T  # radiological: front up, the patient's right at the left
    np.testing.assert_allclose(shown, truth.pixels, atol=0.51)
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[::-1, ::-1, 0].T > 0, truth.mask)


def _planted(folder: Path, faults: dict[str, float]) -> tuple[dict[str, list[dict[str, str]]], dict[str, dict[str, str]]]:
    make_cohort(folder, _settings(patients=10, faults=faults))
    return json.loads((folder / "faults.json").read_text()), {row["path"]: row for row in _rows(folder)}


@pytest.mark.parametrize("kind", ["duplicates", "mirrored_duplicates"])
def test_duplicates_are_planted_under_new_patients(tmp_path: Path, kind: str) -> None:
    report, rows = _planted(tmp_path, {kind: 0.25})
    assert len(report[kind]) == 5
    assert len(rows) == 25
    for item in report[kind]:
        duplicate, source = _gray(tmp_path / item["path"]).astype(int), _gray(tmp_path / item["duplicate_of"]).astype(int)
        duplicate = duplicate[:, ::-1] if kind == "mirrored_duplicates" else duplicate
        assert np.abs(duplicate - source).mean() < 3
        assert (duplicate != source).any()
        assert rows[item["path"]]["patient_id"] != rows[item["duplicate_of"]]["patient_id"]
        assert rows[item["path"]]["label"] == rows[item["duplicate_of"]]["label"]


def test_text_is_on_the_stated_share_of_one_class(tmp_path: Path) -> None:
    report, rows = _planted(tmp_path, {"text": 0.6})
    named = {item["path"] for item in report["text"]}
    assert len(named) == 6
    for path, row in rows.items():
        bright = bool((_gray(tmp_path / path)[2:14, 2:26] > 200).sum() > 20)
        assert bright == (path in named)
        assert row["label"] == "Tumor" or path not in named


def test_wrong_labels_are_swapped_and_named(tmp_path: Path) -> None:
    report, rows = _planted(tmp_path, {"wrong_labels": 0.2})
    sound = make_cohort(tmp_path / "sound", _settings(patients=10))
    truth = {row["path"]: row["label"] for row in _rows(sound)}
    differing = {path for path, row in rows.items() if row["label"] != truth[path]}
    assert len(differing) == 4
    assert differing == {item["path"] for item in report["wrong_labels"]}
    for item in report["wrong_labels"]:
        assert item["true_label"] == truth[item["path"]]
        assert rows[item["path"]]["label"] == item["label"]
        assert rows[item["path"]]["mask"] == ""


def test_faults_do_not_change_the_other_cases(tmp_path: Path) -> None:
    plain = _digests(make_cohort(tmp_path / "plain", _settings()))
    faulty = _digests(make_cohort(tmp_path / "faulty", _settings(faults={"duplicates": 0.3, "wrong_labels": 0.3})))
    assert {name: plain[name] for name in plain if name.startswith("images/")}.items() <= faulty.items()


def test_all_faults_together_do_not_overlap_text_and_wrong_labels(tmp_path: Path) -> None:
    faults = PlantedFaults(duplicates=0.1, mirrored_duplicates=0.1, text=0.5, wrong_labels=0.3).model_dump()
    report, rows = _planted(tmp_path, faults)
    counts = {kind: len(items) for kind, items in report.items()}
    assert counts == {
        "duplicates": 2,
        "mirrored_duplicates": 2,
        "text": 5,
        "wrong_labels": 6,
        "scanner": 0,
    }
    assert not {item["path"] for item in report["text"]} & {item["path"] for item in report["wrong_labels"]}
    assert len(rows) == 24
