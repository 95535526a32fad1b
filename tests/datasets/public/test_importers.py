"""Public data sets as they come: layouts recognised, labels, patients, masks and slices taken out rightly."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from reslink.datasets.manifest import Manifest
from reslink.datasets.public.importers import import_folder, recognise
from reslink.datasets.public.registry import source, sources
from reslink.errors import InputError, UsageError
from reslink.imaging.reading import read_image

FOLDERS = [entry.name for entry in sources().values() if entry.layout.kind == "folders"]


def picture(path, value=100, shape=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.full(shape, value, np.uint8)).save(path)


def rows_of(found):
    with found.manifest.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lay_out(root, entry):
    for i, folder in enumerate(entry.layout.folders):
        for j in range(2):
            picture(root / folder.path / f"{i}_{j}.jpg")
        if folder.masks:
            picture(root / folder.masks / f"{i}_0.png")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_set_of_class_folders_is_recognised_and_imported(tmp_path, name):
    entry = source(name)
    lay_out(tmp_path / "archive" / "set", entry)
    known = recognise(tmp_path)
    assert (known is None) if entry.layout.common else (known[0].name == name)
    found = import_folder(tmp_path, entry)
    assert found.manifest == tmp_path / "archive" / "set" / "manifest.csv"
    rows = rows_of(found)
    assert len(rows) == 2 * len(entry.layout.folders)
    assert sum(found.counts.values()) == len(rows)
    assert found.masks == sum(folder.masks is not None for folder in entry.layout.folders)
    manifest = Manifest.open(found.manifest)
    assert {case.split for case in manifest.cases} == {folder.split for folder in entry.layout.folders}
    assert {case.extra["source"] for case in manifest.cases} == {name}


def test_labels_are_those_of_the_set_or_the_two_common_ones(tmp_path):
    lay_out(tmp_path, source("nickparvar"))
    found = import_folder(tmp_path)
    assert set(found.counts) == {"glioma", "meningioma", "pituitary", "no_tumor"}
    found = import_folder(tmp_path, binary=True, overwrite=True)
    assert found.counts == {"Healthy": 4, "Tumor": 12}
    assert {row["given_label"] for row in rows_of(found)} == {"glioma", "meningioma", "pituitary", "no_tumor"}


def test_yes_and_no_are_always_named(tmp_path):
    lay_out(tmp_path, source("br35h"))
    assert import_folder(tmp_path, source("br35h")).counts == {"Healthy": 2, "Tumor": 2}


def test_the_columns_of_the_modalities_stand_in_the_manifest(tmp_path):
    lay_out(tmp_path, source("ct_mri_kaggle"))
    assert {row["modality"] for row in rows_of(import_folder(tmp_path))} == {"CT", "MR"}


def test_a_manifest_that_stands_there_is_kept(tmp_path):
    lay_out(tmp_path, source("sartaj"))
    (tmp_path / "manifest.csv").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        import_folder(tmp_path)
    assert (tmp_path / "manifest.csv").read_text() == "mine"


def test_a_folder_of_another_layout_is_refused(tmp_path):
    picture(tmp_path / "cats" / "1.jpg")
    with pytest.raises(UsageError, match="does not have the layout of a known data set"):
        import_folder(tmp_path)
    with pytest.raises(UsageError, match="does not have the layout of sartaj"):
        import_folder(tmp_path, source("sartaj"))
    with pytest.raises(UsageError, match="There is no folder"):
        import_folder(tmp_path / "nowhere")


def lgg(root, patient="TCGA_CS_4941_19960909", n=4, lesions=(1, 2)):
    for i in range(n):
        folder = root / "kaggle_3m" / patient
        folder.mkdir(parents=True, exist_ok=True)
        planes = np.stack([np.full((12, 10), value, np.uint8) for value in (10, 50 + i, 90)], axis=2)
        Picture.fromarray(planes).save(folder / f"{patient}_{i}.tif")
        mask = np.zeros((12, 10), np.uint8)
        mask[2:4, 3:5] = 255 * (i in lesions)
        Picture.fromarray(mask).save(folder / f"{patient}_{i}_mask.tif")
    return root / "kaggle_3m" / patient


def test_lgg_takes_flair_and_labels_a_slice_by_its_mask(tmp_path):
    lgg(tmp_path / "in")
    lgg(tmp_path / "in", "TCGA_DU_5849_19950405", lesions=())
    found = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert (found.source, found.counts, found.patients, found.masks) == ("lgg", {"Healthy": 6, "Tumor": 2}, 2, 2)
    row, _ = (row for row in rows_of(found) if row["label"] == "Tumor")
    assert row["patient_id"] == "TCGA_CS_4941"
    assert (np.asarray(Picture.open(tmp_path / "out" / row["path"])) == 51).all()
    assert np.count_nonzero(np.asarray(Picture.open(tmp_path / "out" / row["mask"]))) == 4
    assert len(Manifest.open(found.manifest)) == 8


def test_a_broken_file_is_named_and_the_others_go_on(tmp_path):
    folder = lgg(tmp_path / "in")
    (folder / f"{folder.name}_2.tif").write_bytes(b"II*\0broken")
    found = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert list(found.failed) == [f"{folder.name}/{folder.name}_2.tif"]
    assert sum(found.counts.values()) == 3
    assert str(tmp_path) not in str(found.failed)


def test_a_set_of_broken_files_is_refused(tmp_path):
    folder = lgg(tmp_path / "in", n=1)
    (folder / f"{folder.name}_0.tif").write_bytes(b"")
    with pytest.raises(InputError, match="Not one image of"):
        import_folder(tmp_path / "in", out=tmp_path / "out")


def test_figshare_gives_patient_mask_and_sixteen_bits(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "in").mkdir()
    image = (np.arange(20 * 18).reshape(20, 18) * 30).astype(np.int16)
    mask = np.zeros((20, 18), np.uint8)
    mask[1, 2] = 1
    for i, label in enumerate((1, 2, 3)):
        with h5py.File(tmp_path / "in" / f"{i}.mat", "w") as opened:
            record = opened.create_group("cjdata")
            record["image"], record["tumorMask"] = image.T, mask.T
            record["label"] = np.array([[float(label)]])
            record["PID"] = np.array([[ord(letter)] for letter in f"10036{i // 2}"], np.uint16)
    with h5py.File(tmp_path / "in" / "cvind.mat", "w") as opened:
        opened["cvind"] = np.ones((3, 1))
    (tmp_path / "in" / "9.mat").write_bytes(b"MATLAB 5.0")
    found = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert found.counts == {"glioma": 1, "meningioma": 1, "pituitary": 1}
    assert (found.patients, found.masks, list(found.failed)) == (2, 3, ["9.mat"])
    row = rows_of(found)[0]
    assert row["label"] == "meningioma"
    assert (read_image(tmp_path / "out" / row["path"]).pixels == image).all()
    assert np.argwhere(np.asarray(Picture.open(tmp_path / "out" / row["mask"]))).tolist() == [[1, 2]]


def volume(path, values, spacing=(0.5, 0.6, 5.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)


def test_ct_ich_slices_keep_units_spacing_and_sides(tmp_path):
    values = np.full((20, 24, 4), -1000, np.int16)
    values[4:16, 4:20] = 40
    values[5, 6, 2], values[4, 4] = 70, 900
    mask = np.zeros(values.shape, np.uint8)
    mask[5, 6, 2] = 255
    volume(tmp_path / "in" / "ct_scans" / "049.nii", values)
    volume(tmp_path / "in" / "masks" / "049.nii", mask)
    found = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert (found.source, found.counts, found.patients) == ("ct_ich", {"Haemorrhage": 1, "Healthy": 3}, 1)
    rows = rows_of(found)
    whole = read_image(tmp_path / "in" / "ct_scans" / "049.nii")
    for row, plane in zip(rows, whole.slices(), strict=True):
        image = read_image(tmp_path / "out" / row["path"])
        assert (image.pixels == plane.pixels).all()
        assert (image.unit, image.spacing) == ("HU", pytest.approx(plane.spacing))
    [ill] = [row for row in rows if row["label"] == "Haemorrhage"]
    where = np.argwhere(np.asarray(Picture.open(tmp_path / "out" / ill["mask"])))
    assert read_image(tmp_path / "out" / ill["path"]).pixels[tuple(where[0])] == 70
    assert len(where) == 1


def test_brats_leaves_empty_slices_out(tmp_path):
    folder = tmp_path / "in" / "MICCAI_BraTS2020_TrainingData" / "BraTS20_Training_001"
    values, mask = np.zeros((20, 20, 5), np.int16), np.zeros((20, 20, 5), np.uint8)
    values[5:15, 5:15, 1:4] = 300
    mask[7:9, 7:9, 2] = 4
    volume(folder / "BraTS20_Training_001_t1ce.nii", values)
    volume(folder / "BraTS20_Training_001_seg.nii", mask)
    found = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert (found.source, found.counts, found.patients, found.masks) == ("brats", {"Healthy": 2, "Tumor": 1}, 1, 1)
    assert {row["slice"] for row in rows_of(found)} == {"1", "2", "3"}


def test_an_import_that_was_interrupted_does_not_convert_again(tmp_path):
    lgg(tmp_path / "in")
    import_folder(tmp_path / "in", out=tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in Path(tmp_path / "out").rglob("*.png")}
    import_folder(tmp_path / "in", out=tmp_path / "out", overwrite=True)
    assert times == {path: path.stat().st_mtime_ns for path in Path(tmp_path / "out").rglob("*.png")}


@pytest.mark.data
def test_the_development_copies_are_not_taken_for_the_sets_as_published(shared_data):
    assert recognise(shared_data / "series") is None
