"""Conversion of LGG, figshare, CT-ICH and BraTS: slices, labels, patients and masks."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from reslink.datasets.manifest import Manifest
from reslink.datasets.public.importers import import_folder
from reslink.errors import InputError
from reslink.imaging.reading import read_image


def rows_of(result):
    with result.manifest.open(newline="") as stream:
        return list(csv.DictReader(stream))


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


def test_lgg_uses_flair_and_labels_a_slice_by_its_mask(tmp_path):
    lgg(tmp_path / "in")
    lgg(tmp_path / "in", "TCGA_DU_5849_19950405", lesions=())
    result = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert (result.source, result.counts, result.patients, result.masks) == ("lgg", {"Healthy": 6, "Tumor": 2}, 2, 2)
    row, _ = (row for row in rows_of(result) if row["label"] == "Tumor")
    assert row["patient_id"] == "TCGA_CS_4941"
    assert (np.asarray(Picture.open(tmp_path / "out" / row["path"])) == 51).all()
    assert np.count_nonzero(np.asarray(Picture.open(tmp_path / "out" / row["mask"]))) == 4
    assert len(Manifest.open(result.manifest)) == 8


def test_a_broken_file_is_named_and_skipped(tmp_path):
    folder = lgg(tmp_path / "in")
    (folder / f"{folder.name}_2.tif").write_bytes(b"II*\0broken")
    result = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert list(result.failed) == [f"{folder.name}/{folder.name}_2.tif"]
    assert sum(result.counts.values()) == 3
    assert str(tmp_path) not in str(result.failed)


def test_a_set_of_broken_files_is_refused(tmp_path):
    folder = lgg(tmp_path / "in", n=1)
    (folder / f"{folder.name}_0.tif").write_bytes(b"")
    with pytest.raises(InputError, match="No image of"):
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
    result = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert result.counts == {"glioma": 1, "meningioma": 1, "pituitary": 1}
    assert (result.patients, result.masks, list(result.failed)) == (2, 3, ["9.mat"])
    row = rows_of(result)[0]
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
    result = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert (result.source, result.counts, result.patients) == ("ct_ich", {"Hemorrhage": 1, "Healthy": 3}, 1)
    rows = rows_of(result)
    whole = read_image(tmp_path / "in" / "ct_scans" / "049.nii")
    for row, plane in zip(rows, whole.slices(), strict=True):
        image = read_image(tmp_path / "out" / row["path"])
        assert (image.pixels == plane.pixels).all()
        assert (image.unit, image.spacing) == ("HU", pytest.approx(plane.spacing))
    [ill] = [row for row in rows if row["label"] == "Hemorrhage"]
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
    result = import_folder(tmp_path / "in", out=tmp_path / "out")
    assert (result.source, result.counts, result.patients, result.masks) == ("brats", {"Healthy": 2, "Tumor": 1}, 1, 1)
    assert {row["slice"] for row in rows_of(result)} == {"1", "2", "3"}


def test_an_import_that_was_interrupted_does_not_convert_again(tmp_path):
    lgg(tmp_path / "in")
    import_folder(tmp_path / "in", out=tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in Path(tmp_path / "out").rglob("*.png")}
    import_folder(tmp_path / "in", out=tmp_path / "out", overwrite=True)
    assert times == {path: path.stat().st_mtime_ns for path in Path(tmp_path / "out").rglob("*.png")}
