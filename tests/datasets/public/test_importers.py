"""Public data sets as they come: layouts recognised, labels, patients, masks and slices taken out rightly."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.datasets.manifest import Manifest
from reslink.datasets.public.importers import detect_data_set, import_folder
from reslink.datasets.public.registry import get_public_dataset, public_datasets
from reslink.errors import UsageError

FOLDERS = [entry.name for entry in public_datasets().values() if entry.layout.kind == "folders"]


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
def test_class_folders_are_detected_and_imported(tmp_path, name):
    entry = get_public_dataset(name)
    lay_out(tmp_path / "archive" / "set", entry)
    known = detect_data_set(tmp_path)
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


def test_labels_are_those_of_the_data_set_or_the_common_ones(tmp_path):
    lay_out(tmp_path, get_public_dataset("nickparvar"))
    found = import_folder(tmp_path)
    assert set(found.counts) == {"glioma", "meningioma", "pituitary", "no_tumor"}
    found = import_folder(tmp_path, binary=True, overwrite=True)
    assert found.counts == {"Healthy": 4, "Tumor": 12}
    assert {row["given_label"] for row in rows_of(found)} == {"glioma", "meningioma", "pituitary", "no_tumor"}


def test_yes_and_no_are_always_renamed(tmp_path):
    lay_out(tmp_path, get_public_dataset("br35h"))
    assert import_folder(tmp_path, get_public_dataset("br35h")).counts == {"Healthy": 2, "Tumor": 2}


def test_the_modality_columns_are_in_the_manifest(tmp_path):
    lay_out(tmp_path, get_public_dataset("ct_mri_kaggle"))
    assert {row["modality"] for row in rows_of(import_folder(tmp_path))} == {"CT", "MR"}


def test_an_existing_manifest_is_kept(tmp_path):
    lay_out(tmp_path, get_public_dataset("sartaj"))
    (tmp_path / "manifest.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"manifest\.csv exists"):
        import_folder(tmp_path)
    assert (tmp_path / "manifest.csv").read_text() == "mine"


def test_a_folder_of_another_layout_is_refused(tmp_path):
    picture(tmp_path / "cats" / "1.jpg")
    with pytest.raises(UsageError, match="does not have the layout of a registered data set"):
        import_folder(tmp_path)
    with pytest.raises(UsageError, match="does not have the layout of sartaj"):
        import_folder(tmp_path, get_public_dataset("sartaj"))
    with pytest.raises(UsageError, match="does not exist"):
        import_folder(tmp_path / "nowhere")


@pytest.mark.data
def test_the_development_copies_are_not_detected_as_published_sets(shared_data):
    assert detect_data_set(shared_data / "series") is None
