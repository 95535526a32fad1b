"""Several data sets at once: names, sources, patients, labels by a map, columns, splits."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
from data_files import put, table

from reslink.datasets.joined_manifest import OpenOptions, data_set_names, open_data_sets
from reslink.datasets.manifest import Manifest
from reslink.datasets.split_table import write_split_table
from reslink.errors import UsageError

NORTH = """path,label,patient_id,source,unit
a.png,Healthy,12,old scanner,hu
b.png,Tumor,7,,hu
c.png,Tumor,7,new,
d.png,Healthy,8,,
"""
SOUTH = """file,Class,MRN,hospital,age
a.png,clear,12,,40
b.png,bleed,13,,50
c.png,bleed,14,A,60
d.png,clear,15,,70
e.png,odd,,,1
"""
MAP = {"clear": "Healthy", "bleed": "Tumor", "south:odd": None}


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    """Two tables with other columns and labels, and a folder of class folders."""
    for name, text in (("north", NORTH), ("south", SOUTH)):
        put(tmp_path / name, *(f"{letter}.png" for letter in "abcde"))
        table(tmp_path / name, text)
    put(tmp_path / "folders", "Healthy/1.png", "Healthy/2.png", "Tumor/1.png", "Tumor/2.png")
    return [tmp_path / "north", tmp_path / "south", tmp_path / "folders"]


def join(sets: list[Path], **options: object) -> Manifest:
    return open_data_sets(sets, OpenOptions(**{"label_map": MAP, **options}))  # type: ignore[arg-type]


def test_names_sources_and_patients_say_the_data_set(sets: list[Path]) -> None:
    manifest = join(sets)
    cases = {case.name: case for case in manifest.cases}
    assert list(cases)[:5] == ["north/a.png", "north/b.png", "north/c.png", "north/d.png", "south/a.png"]
    assert list(cases)[-1] == "folders/Tumor/2.png"
    assert [cases[f"north/{x}.png"].source for x in "abc"] == ["north: old scanner", "north", "north: new"]
    assert {cases["north/a.png"].patient_id, cases["south/a.png"].patient_id} == {"north: 12", "south: 12"}
    assert [cases[f"south/{x}.png"].source for x in "bc"] == ["south", "south: A"]
    assert cases["folders/Healthy/1.png"].patient_id is None
    assert manifest.root == sets[0].parent
    assert manifest.name == "north, south, folders"
    assert [(joined.name, joined.has_table) for joined in manifest.sets] == [
        ("north", True),
        ("south", True),
        ("folders", False),
    ]
    assert manifest.set_of(cases["south/a.png"]) == "south"
    assert manifest.notes[0] == "Data sets: north (4 cases), south (4 cases), folders (4 cases)"


def test_labels_are_joined_by_the_map_and_what_is_left_out_is_said(sets: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "reslink"):
        manifest = join(sets)
    assert manifest.labels.names == ("Healthy", "Tumor")
    assert manifest.label_counts() == {"Healthy": 6, "Tumor": 6}
    assert {case.extra.get("given_label") for case in manifest.cases if manifest.set_of(case) == "south"} == {"clear", "bleed"}
    said = [record.getMessage() for record in caplog.records]
    for note in ("The label 'clear' is mapped to 'Healthy' (2 cases)", "The label 'odd' is left out (1 case)"):
        assert f"south: {note}" in manifest.notes
        assert f"south: {note}." in said
    with pytest.raises(UsageError, match=r"The data set north does not have the label 'odd'.*"):
        join(sets, label_map={"north:odd": "Tumor"})
    with pytest.raises(UsageError, match="Did you mean 'bleed'"):
        join(sets, label_map={"bleeds": "Tumor"})


def test_classes_of_one_data_set_are_pointed_out(sets: list[Path]) -> None:
    manifest = join(sets, label_map={"south:odd": None})
    assert manifest.labels.names == ("Healthy", "Tumor", "bleed", "clear")
    [note] = [note for note in manifest.notes if "shortcut" in note]
    assert note.startswith("Each of the classes 'bleed' (south), 'clear' (south) occurs in one data set only")
    assert "--map bleed=CLASS" in note
    assert not any("shortcut" in note for note in join(sets).notes)


def test_labels_that_do_not_fit_together_can_be_mapped(sets: list[Path]) -> None:
    table(sets[1], "path,label,patient_id\na.png,healthy,1\nb.png,Tumor,01\nc.png,Tumor,3\nd.png,healthy,4\n")
    with pytest.raises(UsageError, match=r"differ only in case.*Or map the labels: --map LABEL=CLASS"):
        join([sets[1], sets[2]], label_map={})
    with pytest.raises(UsageError, match=r"The patients 'south: 1' .* rename one of them\.$"):
        join([sets[1], sets[2]], label_map={"healthy": "Healthy"})


def test_columns_of_all_tables_are_kept_under_one_name(sets: list[Path], tmp_path: Path) -> None:
    manifest = join(sets)
    expected = ("path", "label", "patient_id", "source", "unit", "given_label", "age")
    assert manifest.columns == expected
    assert manifest.column_roles["patient_id"] == "north: patient_id, south: MRN"
    assert [case.unit for case in manifest.cases[:4]] == ["HU", "HU", None, None]
    out = write_split_table(tmp_path / "split.csv", manifest, {"split": ["train"] * len(manifest)})
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert rows[5] == {
        "path": "south/b.png",
        "label": "Tumor",
        "patient_id": "south: 13",
        "source": "south",
        "unit": "",
        "age": "50",
        "given_label": "bleed",
        "split": "train",
    }
    again = Manifest.open(out)
    assert [(case.label, case.source, case.patient_id) for case in again.cases] == [
        (case.label, case.source, case.patient_id) for case in manifest.cases
    ]


def test_a_single_data_set_is_opened_as_ever(sets: list[Path]) -> None:
    alone, opened = open_data_sets(sets[2:]), Manifest.open(sets[2])
    assert alone == opened
    assert alone.digest() == opened.digest()
    mapped = join(sets[1:2])
    assert [case.name for case in mapped.cases] == ["a.png", "b.png", "c.png", "d.png"]
    assert mapped.sets == ()


def test_opened_manifests_can_be_joined(sets: list[Path]) -> None:
    manifest = open_data_sets([Manifest.open(sets[0]), sets[2]])
    assert manifest == open_data_sets([sets[0], sets[2]])


def test_names_are_distinct(sets: list[Path], tmp_path: Path) -> None:
    other = put(tmp_path / "x" / "north", "a.png")
    dotted = put(tmp_path / "v1.2", "a.png")
    assert data_set_names([sets[0], other, sets[0] / "manifest.csv", dotted, tmp_path / "t.csv"]) == [
        "north",
        "north-2",
        "north-3",
        "v1.2",
        "t",
    ]
    assert data_set_names([other], taken=["north"]) == ["north-2"]
    assert data_set_names([sets[0], put(tmp_path / "NORTH", "a.png")]) == ["north", "NORTH-2"], "patients are compared by case"
    for again in (sets[0], sets[0] / "manifest.csv"):
        with pytest.raises(UsageError, match=r"is given twice\. Each data set counts once\. Remove one of the two\."):
            join([sets[0], again])
    with pytest.raises(UsageError, match="One of the data sets is a dict"):
        open_data_sets([sets[0], {}])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="No data set was given"):
        open_data_sets([])


class TestSeveralLabels:
    """Columns of several labels at once."""

    @pytest.fixture
    def tables(self, tmp_path: Path) -> list[Path]:
        rows = {"one": "path,Bleed,swelling\n", "two": "path,bleed,other\n", "none": "path,age\n"}
        for name, header in rows.items():
            put(tmp_path / name, *(f"{i}.png" for i in range(4)))
            table(tmp_path / name, header + "".join(f"{i}.png,{i % 2},{i // 2}\n" for i in range(4)).replace(",1\n", ",1\n"))
        table(tmp_path / "none", "path,age\n0.png,4\n")
        return [tmp_path / name for name in rows]

    def test_a_label_that_a_table_lacks_is_unknown_there(self, tables: list[Path]) -> None:
        manifest = open_data_sets(tables[:2], OpenOptions(label_columns=["bleed", "swelling"]))
        assert [case.states for case in manifest.cases] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, -1), (1, -1), (0, -1), (1, -1)]
        assert manifest.cases[5].extra == {"bleed": "1", "swelling": "", "other": "0", "source": "two"}
        assert manifest.columns == ("path", "bleed", "swelling", "source", "other")
        text = "two: manifest.csv has no column for the label 'swelling', which is unknown in its 4 cases"
        assert text in manifest.notes

    def test_a_table_without_any_of_them_is_refused(self, tables: list[Path]) -> None:
        with pytest.raises(UsageError, match=r"none: --labels names 'swelling', and manifest\.csv has no such column"):
            open_data_sets(tables[1:], OpenOptions(label_columns=["bleed", "swelling"]))

    def test_opened_manifests_have_the_labels_of_all(self, tables: list[Path]) -> None:
        one = Manifest.open(tables[0], label_columns=["bleed", "swelling"])
        two = Manifest.open(tables[1], label_columns=["other", "bleed"])
        manifest = open_data_sets([one, two])
        assert manifest.labels.names == ("bleed", "swelling", "other")
        assert manifest.cases[1].states == (1, 0, -1)
        assert manifest.cases[5].states == (1, -1, 0)

    def test_labels_and_classes_do_not_mix(self, tables: list[Path], sets: list[Path]) -> None:
        with pytest.raises(UsageError, match="Some of the data sets have one class per image, and others several labels"):
            open_data_sets([Manifest.open(tables[0], label_columns=["bleed", "swelling"]), sets[2]])
        with pytest.raises(UsageError, match="--map"):
            join(tables[:2], label_columns=["bleed", "swelling"], label_map={"a": "b"})


def test_folds_that_only_some_state_are_not_used(sets: list[Path]) -> None:
    table(sets[0], "path,label,fold\na.png,Healthy,0\nb.png,Tumor,1\nc.png,Healthy,2\nd.png,Tumor,0\n")
    manifest = join([sets[0], sets[2]], label_map={})
    assert "The column 'fold' is not used, because only north has it" in manifest.notes
    assert manifest.cases[1].extra == {"given_fold": "1", "source": "north"}
    assert manifest.columns == ("path", "label", "given_fold", "source")
    table(sets[1], "path,label,fold\na.png,Healthy,0\nb.png,Tumor,1\nc.png,Healthy,2\nd.png,Tumor,0\n")
    assert join(sets[:2], label_map={}).cases[5].extra["fold"] == "1"


def test_a_split_that_only_some_state_is_said(sets: list[Path]) -> None:
    table(sets[0], "path,label,split\na.png,Healthy,train\nb.png,Tumor,train\nc.png,Healthy,test\nd.png,Tumor,test\n")
    manifest = join([sets[0], sets[2]], label_map={})
    [note] = [note for note in manifest.notes if "split" in note]
    assert note == (
        "The split of north is kept. folders has none, which is drawn; near duplicates of an image with a split get that split"
    )
    assert [case.split for case in manifest.cases] == ["train", "train", "test", "test", None, None, None, None]
