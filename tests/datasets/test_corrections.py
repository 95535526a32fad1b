"""Corrected labels: applied by name, checked against the data, and counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from data_files import put, table

from reslink.datasets.joined_manifest import OpenOptions, open_data_sets
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError

HEADER = "name,given_label,corrected_label,evidence,correlation,orientation,set\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path / "ct", *(f"{label}/{i}.png" for label in ("Healthy", "Tumor") for i in range(3)))


def test_a_case_keeps_the_label_that_it_had(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = table(folder.parent, f"{HEADER}Healthy/1.png,Healthy,Tumor,x/9.png,0.99,4,ct\n", "fix.csv")
    with caplog.at_level(logging.WARNING, "reslink"):
        manifest = Manifest.open(folder, corrections=given)
    case = next(case for case in manifest.cases if case.name == "Healthy/1.png")
    assert (case.label, case.extra) == ("Tumor", {"given_label": "Healthy"})
    assert manifest.label_counts() == {"Healthy": 2, "Tumor": 4}
    assert manifest.notes[-1] == "1 label of 6 cases corrected by fix.csv"
    assert "1 label of 6 cases corrected by fix.csv." in [record.getMessage() for record in caplog.records]


def test_a_renamed_case_keeps_the_label_of_its_file(folder: Path) -> None:
    given = table(folder.parent, f"{HEADER}Healthy/1.png,clear,bleed,x/9.png,0.99,4,ct\n", "fix.csv")
    manifest = Manifest.open(folder, rename={"Healthy": "clear", "Tumor": "bleed"}, corrections=given)
    case = next(case for case in manifest.cases if case.name == "Healthy/1.png")
    assert (case.label, case.extra) == ("bleed", {"given_label": "Healthy"})


def test_names_of_joined_data_sets_fit_the_single_one_too(folder: Path) -> None:
    given = table(folder.parent, f"{HEADER}ct/Healthy/1.png,Healthy,Tumor,x/9.png,0.99,4,ct\n", "fix.csv")
    other = put(folder.parent / "b", "Healthy/0.png", "Tumor/0.png")
    for manifest in (Manifest.open(folder, corrections=given), open_data_sets([folder, other], OpenOptions(corrections=given))):
        assert [case.extra["given_label"] for case in manifest.cases if "given_label" in case.extra] == ["Healthy"]
    with pytest.raises(UsageError, match=r"Row 2.* corrects 'ct/Healthy/1\.png', which is not a case of the data"):
        Manifest.open(other, corrections=given)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Healthy/7.png,Healthy,Tumor", r"corrects 'Healthy/7\.png', which is not a case.*such as 'Healthy/0\.png'"),
        ("Tumor/1.png,Healthy,Tumor", r"corrects the label 'Healthy' of Tumor/1\.png, which has the label 'Tumor'"),
        ("Tumor/1.png,Tumor,Helthy", r"which is not a class.*The classes are Healthy, Tumor.*Did you mean 'Healthy'"),
        ("Tumor/1.png,Tumor,Healthy\nTumor/1.png,Tumor,Healthy", r"names 'Tumor/1\.png' again.*Each case has one row"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(folder: Path, row: str, message: str) -> None:
    given = table(folder.parent, f"name,given_label,corrected_label\n{row}\n", "fix.csv")
    with pytest.raises(UsageError, match=message):
        Manifest.open(folder, corrections=given)


def test_the_file_is_checked(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--corrections .*nowhere\.csv does not exist.*Check the path"):
        Manifest.open(folder, corrections=folder / "nowhere.csv")
    given = table(folder.parent, "name,given_label,corrected\n", "fix.csv")
    with pytest.raises(UsageError, match=r"fix\.csv has no column 'corrected_label'"):
        Manifest.open(folder, corrections=given)


def test_several_labels_have_no_corrections(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}.png" for i in range(4)))
    data = table(tmp_path, "path,a,b\n0.png,0,0\n1.png,0,1\n2.png,1,0\n3.png,1,1\n")
    given = table(tmp_path, f"{HEADER}0.png,a,b,,,,\n", "fix.csv")
    with pytest.raises(UsageError, match="--corrections"):
        Manifest.open(data, label_columns=["a", "b"], corrections=given)
