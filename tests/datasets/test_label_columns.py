"""Tables with several labels at once: strict cells, unknown labels, conflicts by column, and splits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from reslink.datasets.case import Case
from reslink.datasets.label_columns import check_label_names
from reslink.datasets.label_conflicts import describe_conflicts, label_conflicts
from reslink.datasets.manifest import Manifest
from reslink.datasets.splits import assign_folds, assign_splits
from reslink.datasets.tables.rows import Row
from reslink.errors import UsageError
from reslink.labels import ABSENT, PRESENT, UNKNOWN, Labels, parse_state, states_text

NAMES = ("bleed", "swelling")


@pytest.fixture
def table(tmp_path):
    """Writes a table of images with the cells of two labels, and returns its path."""

    def write(rows, header="path,bleed,swelling,patient"):
        for i in range(len(rows)):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
        path = tmp_path / "labels.csv"
        path.write_text("\n".join([header, *(f"{i}.png,{row},p{i}" for i, row in enumerate(rows))]) + "\n")
        return path

    return write


GOOD = ["1,0", "0,1", "1,1", "0,0", "yes,no", "TRUE,n/a", "0,", "1.0,false"]


def test_cells_are_read_strictly(table):
    manifest = Manifest.open(table(GOOD), label_columns=NAMES)
    states = [(1, 0), (0, 1), (1, 1), (0, 0), (1, 0), (1, UNKNOWN), (0, UNKNOWN), (1, 0)]
    assert [case.states for case in manifest.cases] == states
    assert manifest.targets == states
    assert manifest.labels == Labels(NAMES, exclusive=False)
    assert not manifest.labels.binary
    assert manifest.label_counts() == Counter(bleed=5, swelling=2)
    assert manifest.cases[2].label == "bleed + swelling"
    assert manifest.cases[6].label == "no label (unknown: swelling)"
    assert any("'swelling' is unknown for 2 of 8 images" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("cell", "state"), [("2", None), ("bleed", None), ("-1", None), (" Yes ", PRESENT), ("-", UNKNOWN), ("0.0", ABSENT)]
)
def test_the_state_of_a_cell(cell, state):
    assert parse_state(cell) == state


def test_other_cells_are_refused_with_their_rows(table):
    with pytest.raises(UsageError, match=r"'bleed' of labels\.csv holds '2', 'maybe' in rows 2, 4\. A label is 1, true or yes"):
        Manifest.open(table(["2,0", "0,1", "maybe,1", "1,0"]), label_columns=NAMES)


def test_a_row_without_any_label_is_left_out_and_counted(table):
    manifest = Manifest.open(table([*GOOD, ",nan"]), label_columns=NAMES)
    assert len(manifest) == len(GOOD)
    assert "1 row without any known label left out" in manifest.notes


def test_rows_without_any_label_are_not_searched_for_one_by_one(table, monkeypatch):
    def compare(self, other):
        raise AssertionError("rows are compared, which takes quadratic time")

    monkeypatch.setattr(Row, "__eq__", compare)
    assert len(Manifest.open(table([*GOOD, ",nan", ","]), label_columns=NAMES)) == len(GOOD)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,0", "0,0", "1,0", "0,0"], "'swelling' is present in 0 and absent in 4 of 4 images"),
        (["1,1", "0,1", "1,1", "0,1"], "'swelling' is present in 4 and absent in 0"),
        (["1,", "0,", "1,", "0,"], "'swelling' is unknown in all of 4 images"),
    ],
)
def test_a_label_with_one_state_is_refused(table, rows, message):
    path = table(rows)
    with pytest.raises(UsageError, match=message):
        Manifest.open(path, label_columns=NAMES)
    assert len(Manifest.open(path, labels=Labels(NAMES, exclusive=False))) == 4  # to be evaluated


def test_a_rare_label_is_reported(table):
    notes = Manifest.open(table(GOOD), label_columns=NAMES).notes
    assert "The label 'swelling' is present in only 2 images; its metrics will be uncertain" in notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bleed"], "names only 'bleed'.*two or more columns.*--columns label=bleed"),
        (["bleed", "Bleed"], "names 'bleed' twice"),
        (["bleed", " "], "an empty name"),
        ([], "names no column"),
    ],
)
def test_names_are_checked_without_a_table(names, message):
    with pytest.raises(UsageError, match=message):
        check_label_names(names)


def test_a_missing_or_used_column_is_refused(table):
    with pytest.raises(UsageError, match=r"'bleeds', .* has no such column.*the columns are path, bleed.*Did you mean 'bleed'"):
        Manifest.open(table(GOOD), label_columns=("bleeds", "swelling"))
    with pytest.raises(UsageError, match=r"'patient', .* has the patient_id of each image in this column"):
        Manifest.open(table(GOOD), label_columns=("bleed", "patient"))


def test_class_folders_have_no_label_columns(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="several labels at once was given for the folder"):
        Manifest.open(tmp_path, label_columns=NAMES)


def _case(name, *states):
    return Case(name, states_text(NAMES, states), name=name, states=states)


def test_conflicts_are_counted_by_column():
    cases = [_case("a", 1, UNKNOWN), _case("b", 1, 0), _case("c", UNKNOWN, 1), _case("d", 0, UNKNOWN)]
    assert label_conflicts(cases[:2], hashes=["x", "x"]) == []  # an unknown label contradicts none
    [rows] = label_conflicts(cases, hashes=["x"] * 4)
    assert rows == [0, 1, 2, 3]
    assert "b (bleed) and c (swelling (unknown: bleed))" in describe_conflicts(cases, [[1, 2]])


def _manifest(states, patients):
    cases = [
        Case(f"/x/{i}", states_text(NAMES, row), patient, name=f"{i}", states=row)
        for i, (row, patient) in enumerate(zip(states, patients, strict=True))
    ]
    return Manifest(tuple(cases), Labels(NAMES, exclusive=False), "/x")


def test_each_split_has_each_label_of_enough_patients():
    states = [(1, 0)] * 6 + [(0, 1)] * 6 + [(1, 1)] * 3 + [(0, 0)] * 25
    groups = [f"p{i // 2}" for i in range(40)]
    manifest = _manifest(states, groups)
    for seed in range(5):
        splits = assign_splits(manifest, groups, seed=seed)
        assert all(len({splits[i] for i in range(40) if groups[i] == group}) == 1 for group in set(groups))
        for split in ("train", "validation", "test"):
            counts = manifest.subset(i for i, name in enumerate(splits) if name == split).label_counts()
            assert min(counts.values()) > 0, (seed, split, counts)


def test_a_label_of_one_patient_does_not_prevent_a_split():
    states = [(1, 0)] * 10 + [(1, 1)] * 2 + [(0, 0)] * 12
    groups = [f"p{i // 2}" for i in range(24)]
    manifest = _manifest(states, groups)
    assert len({name for name, row in zip(assign_splits(manifest, groups), states, strict=True) if row[1]}) == 1
    folds = assign_folds(manifest, groups, 4)
    assert all(any(states[i][0] for i in range(24) if folds[i] == fold) for fold in range(4))
