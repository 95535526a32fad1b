"""Which column has which role. Tables with all kinds of headers are read in test_manifest_table.py."""

from __future__ import annotations

from itertools import pairwise

import pytest

from reslink.datasets.columns import ROLES, find_columns, header_key, parse_columns, role_of
from reslink.datasets.tables.rows import Row, Table
from reslink.errors import UsageError


def table(headers: str, *rows: str) -> Table:
    names = headers.split(",")
    cells = [dict(zip(names, row.split(","), strict=True)) for row in rows]
    return Table("t.csv", tuple(names), tuple(Row("t.csv", number, row) for number, row in enumerate(cells, start=2)))


def test_case_and_separators_do_not_matter() -> None:
    spellings = ["patient_id", "Patient ID", "PATIENT-ID", "patientId", "patient.id", " \uff50atient\u200b_id"]
    assert all(header_key(a) == header_key(b) for a, b in pairwise(spellings))
    assert {role_of(spelling) for spelling in spellings} == {"patient_id"}


def test_each_role_is_a_spelling_of_itself_alone() -> None:
    assert [role_of(role) for role in ROLES] == list(ROLES)
    assert role_of("age") is None
    assert role_of("sex") is None


def test_the_choice_of_the_user_in_one_or_several_texts() -> None:
    chosen = {"patient_id": "MRN", "label": "Dx, main", "mask": ""}
    assert parse_columns(['patient=MRN,"label=Dx, main"', "Segmentation="]) == chosen
    assert parse_columns(chosen) == parse_columns({"Patient ID": "MRN", "class": "Dx, main", "mask": ""}) == chosen
    assert parse_columns("patient=MRN") == {"patient_id": "MRN"}
    assert parse_columns(None) == parse_columns([]) == {}


@pytest.mark.parametrize(
    ("headers", "cells", "role", "header"),
    [
        ("path,label,unit", ["hu", "HU", ""], "unit", "unit"),
        ("path,label,Units", ["grey", "mr", "MR"], "unit", "Units"),
        ("path,label,unit", ["ICU", "ward 3", "hu"], "unit", None),
        ("path,label,Sequence", ["T1w", "t2 flair", "T1ce", "T1C+"], "sequence", "Sequence"),
        ("path,label,sequence", ["ACGT", "GGTA", "T1"], "sequence", None),
        ("path,label,set", ["train", "test", "VAL"], "split", "set"),
        ("path,label,set", ["A", "B", "train"], "split", None),
        ("path,label,case", ["case", "control", "case"], "patient_id", None),
        ("path,label,subject", ["1", "0", "1"], "patient_id", None),
        ("path,label,subject", ["1", "0", "2"], "patient_id", "subject"),
        ("path,label,scanner", ["", "-", "NA"], "source", None),
    ],
)
def test_the_cells_must_fit_the_role(headers: str, cells: list[str], role: str, header: str | None) -> None:
    rows = [f"{i}.png,a,{cell}" for i, cell in enumerate(cells)]
    assert find_columns(table(headers, *rows), {}).headers.get(role) == header  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("header", "cells", "shown"),
    [
        ("patient", ["0", "1", "0"], "'0', '1'"),
        ("Case", ["case", "control", ""], "'case', 'control'"),
        ("pid", ["", "", ""], "nothing"),
    ],
)
def test_a_column_named_like_patients_that_is_not_used_is_named(header: str, cells: list[str], shown: str) -> None:
    rows = [f"{i}.png,a,{cell},{i}" for i, cell in enumerate(cells)]
    assert find_columns(table(f"path,label,{header},age", *rows), {}).notes == (
        f"The column {header!r} of t.csv is not used as patient_id: it holds {shown}",
    )
    assert find_columns(table(f"path,label,{header},MRN", *rows), {}).notes == ()  # the patients are in another column
    assert find_columns(table(f"path,label,{header},age", *rows), {"patient_id": ""}).notes == ()


def test_a_split_in_other_words_is_refused_later_and_not_ignored() -> None:
    assert find_columns(table("path,label,split", "1.png,a,x"), {}).headers["split"] == "split"


def test_a_chosen_column_has_no_second_role() -> None:
    found = find_columns(table("path,label,site", "1.png,a,n", "2.png,b,s"), parse_columns(["patient=site"]))
    assert found.headers == {"path": "path", "label": "label", "patient_id": "site"}
    assert found.inferred == "Columns of t.csv: 'site' is used as patient_id. Change this with --columns"


def test_y_is_a_label_only_where_nothing_else_is() -> None:
    assert find_columns(table("path,y", "1.png,a"), {}).headers["label"] == "y"
    assert find_columns(table("path,x,y,class", "1.png,3,4,a"), {}).headers["label"] == "class"


def test_names_of_the_roles_need_no_word() -> None:
    found = find_columns(table("Path,LABEL,patient_id", "1.png,a,p"), {})
    assert (found.inferred, found.notes) == ("", ())
    assert found.headers == {"path": "Path", "label": "LABEL", "patient_id": "patient_id"}


def test_two_columns_named_like_the_choice() -> None:
    with pytest.raises(UsageError, match="has no column 'who_is'"):
        find_columns(table("path,label,Who Is,who-is", "1.png,a,p,p"), {"patient_id": "who_is"})


@pytest.mark.parametrize("header", ["set", "subset", "fold", "phase"])
def test_a_misspelled_split_is_not_ignored(header: str) -> None:
    roles = find_columns(table(f"path,label,{header}", "a,x,Train", "b,x,tets", "c,y,test"), {})
    assert roles.headers["split"] == header


@pytest.mark.parametrize(
    ("header", "cells", "note"),
    [
        (
            "Teilmenge",
            ["train", "test"],
            "holds test and train, but is not used. If it is the split, use --columns split=Teilmenge",
        ),
        ("cohort", ["Dev", "TRAIN"], "holds dev and train, but is not used"),
        ("is_test", ["0", "1"], "seems to state a split by 0 and 1, but is not used"),
        ("Training Set", ["True", "False"], "seems to state a split by false and true"),
        ("val", ["no", "yes"], "seems to state a split by no and yes"),
        ("sex", ["0", "1"], None),
        ("test", ["2.5", "3.1"], None),
        ("Teilmenge", ["train", "other"], None),
        ("Teilmenge", ["train", "train"], None),
    ],
)
def test_a_split_under_another_name_is_named(header: str, cells: list[str], note: str | None) -> None:
    rows = [f"{i},x,{cell}" for i, cell in enumerate(cells)]
    notes = find_columns(table(f"path,label,{header}", *rows), {}).notes
    assert [note in text and repr(header) in text for text in notes] == ([True] if note else [])
    assert not find_columns(table(f"path,label,{header},split", *(f"{row},train" for row in rows)), {}).notes
    assert not find_columns(table(f"path,label,{header}", *rows), {"split": ""}).notes
