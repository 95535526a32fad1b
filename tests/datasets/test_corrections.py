"""Corrected labels: applied by name, checked against the data, and counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from data_files import put, table

from reslink.datasets.joined_manifest import OpenOptions, open_data_sets
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.files import sha256

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


def test_an_audit_of_other_data_sets_fits_in_any_order(folder: Path) -> None:
    """An audit of ct and b corrects both; the training has c, b and ct, or one of them."""
    b, c = (put(folder.parent / name, "Healthy/0.png", "Tumor/0.png", "Healthy/9.png", "Tumor/9.png") for name in "bc")
    rows = "ct/Healthy/1.png,Healthy,Tumor,b/Healthy/0.png,0.99,4,ct\nb/Tumor/0.png,Tumor,Healthy,ct/Healthy/0.png,0.99,0,b\n"
    given = table(folder.parent, HEADER + rows, "fix.csv")

    def corrected(*data: Path) -> tuple[set[str], str]:
        manifest = open_data_sets(data, OpenOptions(corrections=given))
        note = next(note for note in manifest.notes if "corrected by" in note)
        return {case.name for case in manifest.cases if "given_label" in case.extra}, note

    assert corrected(c, b, folder)[0] == {"ct/Healthy/1.png", "b/Tumor/0.png"}
    unused = "1 label of 6 cases corrected by fix.csv; 1 correction of other data sets (b) not used"
    assert corrected(folder) == ({"Healthy/1.png"}, unused)
    assert corrected(c, folder)[0] == {"ct/Healthy/1.png"}
    with pytest.raises(UsageError, match=r"Row 2.* corrects 'ct/Healthy/1\.png', which is not a case of the data"):
        corrected(c)


def test_an_audit_of_a_single_data_set_fits_the_joined_ones(folder: Path) -> None:
    other = put(folder.parent / "b", "Healthy/0.png", "Tumor/0.png")
    given = table(folder.parent, f"{HEADER}Healthy/1.png,Healthy,Tumor,x/9.png,0.99,4,scanner 1\n", "fix.csv")
    manifest = open_data_sets([other, folder], OpenOptions(corrections=given))
    assert [case.name for case in manifest.cases if "given_label" in case.extra] == ["ct/Healthy/1.png"]
    given.write_text(f"{HEADER}Healthy/0.png,Healthy,Tumor,x/9.png,0.99,4,\n")
    with pytest.raises(UsageError, match=r"which can be b/Healthy/0\.png or ct/Healthy/0\.png.*Write b/Healthy/0\.png"):
        open_data_sets([other, folder], OpenOptions(corrections=given))


@pytest.fixture
def clinics(tmp_path: Path) -> list[Path]:
    """Two data sets, a and b, whose tables have a column source."""
    folders = [put(tmp_path / name, *(f"{label}{i}.png" for label in "HT" for i in range(3))) for name in "ab"]
    rows = "".join(f"{label}{i}.png,{name},s1\n" for label, name in (("H", "Healthy"), ("T", "Tumor")) for i in range(3))
    for folder in folders:
        table(folder, f"path,label,source\n{rows}")
    return folders


def test_the_source_of_a_missing_case_is_not_another_data_set(clinics: list[Path]) -> None:
    row = "{},Healthy,Tumor,x/9.png,0.99,4,{}\n"
    given = table(clinics[0].parent, HEADER + row.format("a/H1.png", "a: s1") + row.format("H99.png", "s1"), "fix.csv")
    for data in (clinics[:1], clinics):
        with pytest.raises(UsageError, match=r"Row 3.* corrects 'H99\.png', which is not a case of the data"):
            open_data_sets(data, OpenOptions(corrections=given))
    for name in ("b", "b: s1"):
        given.write_text(HEADER + row.format("a/H1.png", name.replace("b", "a")) + row.format("b/H99.png", name))
        with pytest.raises(UsageError, match=r"Row 3.* corrects 'b/H99\.png', which is not a case of the data"):
            open_data_sets(clinics, OpenOptions(corrections=given))


def test_the_source_may_be_the_folder_of_a_missing_case(tmp_path: Path) -> None:
    data = put(tmp_path / "a", *(f"s1/{i}.png" for i in range(4)))
    table(data, "path,label,source\n" + "".join(f"s1/{i}.png,{'HT'[i % 2]},s1\n" for i in range(4)))
    given = table(tmp_path, f"{HEADER}s1/0.png,H,T,x/9.png,0.99,4,s1\ns1/9.png,H,T,x/9.png,0.99,4,s1\n", "fix.csv")
    with pytest.raises(UsageError, match=r"Row 3.* corrects 's1/9\.png', which is not a case of the data"):
        Manifest.open(data, corrections=given)


@pytest.mark.parametrize("sets", [("a", "b"), ("a: s1", "b: s1")])
def test_joined_data_sets_with_sources_fit_one_of_them(clinics: list[Path], sets: tuple[str, str]) -> None:
    rows = [f"{name[0]}/H1.png,Healthy,Tumor,x/9.png,0.99,4,{name}\n" for name in sets]
    given = table(clinics[0].parent, HEADER + "".join(rows), "fix.csv")
    manifest = open_data_sets(clinics[:1], OpenOptions(corrections=given))
    assert [case.name for case in manifest.cases if "given_label" in case.extra] == ["H1.png"]
    assert manifest.notes[-1] == "1 label of 6 cases corrected by fix.csv; 1 correction of other data sets (b) not used"


def test_what_changed_the_labels_is_recorded(folder: Path) -> None:
    other = put(folder.parent / "b", "Healthy/0.png", "bleed/0.png", "other/0.png")
    given = table(folder.parent, f"{HEADER}ct/Healthy/1.png,Healthy,Tumor,x/9.png,0.99,4,ct\n", "fix.csv")
    corrections = {"by": "corrections", "file": "fix.csv", "sha256": sha256(given), "labels": 1}
    assert Manifest.open(folder, corrections=given).label_changes == (corrections,)
    options = OpenOptions(label_map={"bleed": "Tumor", "b:other": None}, corrections=given)
    mapped = {"set": "b", "by": "map", "classes": {"bleed": "Tumor", "other": None}, "labels": 2}
    assert open_data_sets([folder, other], options).label_changes == (mapped, corrections)
    renamed = Manifest.open(folder, rename={"Tumor": "bleed"})
    assert renamed.label_changes == ({"by": "map", "classes": {"Tumor": "bleed"}, "labels": 3},)
    assert open_data_sets([renamed, other], OpenOptions(label_map={"other": None})).label_changes[0]["set"] == "ct"
    assert Manifest.open(folder).label_changes == ()


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
