"""Data sets as arguments."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reslink.api.data_argument import open_manifest, read_patients
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError


def test_a_path_is_opened_and_a_manifest_is_returned_unchanged(heads: Path) -> None:
    manifest = open_manifest(heads)
    assert len(manifest) == 28
    assert open_manifest(manifest) is manifest


def test_a_unit_is_stated_for_a_manifest_too(heads: Path) -> None:
    manifest = Manifest.open(heads)
    stated = replace(manifest, cases=(replace(manifest.cases[0], unit="MR"), *manifest.cases[1:]))
    units = [case.unit for case in open_manifest(stated, unit="hu").cases]
    assert units == ["MR", *["HU"] * 27], "a unit of the table stays"
    with pytest.raises(UsageError, match="The unit 'bogus' is not valid"):
        open_manifest(manifest, unit="bogus")
    for option in ("columns", "root"):
        with pytest.raises(UsageError, match=f"--{option} was given for an opened manifest"):
            open_manifest(manifest, **{option: "x"})


def test_several_are_joined_and_a_list_of_one_is_that_one(heads: Path, tmp_path: Path) -> None:
    assert open_manifest([heads]) == Manifest.open(heads)
    other = tmp_path / "other"
    shutil.copytree(heads, other)
    joined = open_manifest([Manifest.open(heads), str(other)], unit="mr")
    assert {case.source for case in joined.cases} == {"heads", "other"}
    assert {case.unit for case in joined.cases} == {"MR"}
    with pytest.raises(UsageError, match="--root was given for an opened manifest"):
        open_manifest([Manifest.open(heads), other], root="x")
    with pytest.raises(UsageError, match="2 data sets were given"):
        open_manifest([heads, other], labels=joined.labels)
    with pytest.raises(UsageError, match="No data set was given"):
        open_manifest([])


def test_labels_of_a_single_one_are_mapped_too(heads: Path) -> None:
    for data in (heads, Manifest.open(heads)):
        manifest = open_manifest(data, map={"Tumor": "Lesion"})
        assert manifest.labels.names == ("Healthy", "Lesion")
        assert {case.extra["given_label"] for case in manifest.cases} == {"Healthy", "Tumor"}
    with pytest.raises(UsageError, match="No data set has the label 'Tumour'"):
        open_manifest(heads, map=["Tumour=Lesion"])


def test_a_note_about_patients_is_logged(
    heads: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = Manifest.open(heads)
    for note, messages in (("2 headers name no patient", ["Patients: 2 headers name no patient."]), ("", [])):
        caplog.clear()
        monkeypatch.setattr("reslink.datasets.patient_ids.add_header_patients", lambda given, note=note: (given, note))
        with caplog.at_level(logging.WARNING, "reslink"):
            assert read_patients(manifest) is manifest
        assert [record.getMessage() for record in caplog.records] == messages
