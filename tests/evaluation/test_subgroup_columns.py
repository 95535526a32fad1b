"""Subgroups from a column of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.evaluation.subgroup_columns import assign_subgroups, check_columns, describing_columns
from reslink.labels import Labels


def cases(values: list[str], column: str = "scanner") -> list[Case]:
    return [Case(Path(f"/{i}.png"), "Tumor", name=f"{i}.png", extra={column: value}) for i, value in enumerate(values)]


def test_many_numbers_are_split_at_their_quartiles() -> None:
    ages = [f"{age:03d}Y" for age in range(40)] + [""]
    found = assign_subgroups(cases(ages, "age"), "age")
    assert list(dict.fromkeys(found)) == [
        "0 to under 9.75",
        "9.75 to under 19.5",
        "19.5 to under 29.25",
        "29.25 to 39",
        "not stated",
    ]
    assert [found.count(name) for name in dict.fromkeys(found)] == [10, 10, 10, 10, 1]


def test_an_unknown_column_is_refused() -> None:
    manifest = Manifest(tuple(cases(["A", "B"])), Labels(("Healthy", "Tumor")), Path("/"))
    with pytest.raises(UsageError, match=r"no column 'scaner'.*Did you mean 'scanner'"):
        check_columns(manifest, ["scaner"])
    with pytest.raises(UsageError, match=r"patient_id, path and label cannot be used"):
        check_columns(manifest, ["patient_id"])
    names = Manifest(tuple(cases([f"name {i}" for i in range(30)])), Labels(("Healthy", "Tumor")), Path("/"))
    with pytest.raises(UsageError, match=r"has 30 different values, and not all are numbers.*at most 20"):
        check_columns(names, ["scanner"])


@pytest.mark.parametrize("header", ["hospital", "Site", "source"])
def test_the_source_is_a_subgroup_whatever_its_column_is_called(tmp_path: Path, header: str) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{site}" for i, site in enumerate(["north", "south", "", "north"])]
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    (tmp_path / "manifest.csv").write_text("\n".join([f"path,label,{header}", *rows]))
    manifest = Manifest.open(tmp_path)
    check_columns(manifest, ["source", header])
    assert assign_subgroups(manifest.cases, "source") == ["north", "south", "not stated", "north"]
    assert assign_subgroups(manifest.cases, header) == ["north", "south", "not stated", "north"]


def test_without_a_source_it_is_no_subgroup() -> None:
    with pytest.raises(UsageError, match=r"no column 'source'.*Subgroup columns are split, scanner;"):
        assign_subgroups(cases(["A", "B"]), "source")


@pytest.mark.parametrize(
    ("values", "describes"),
    [
        (["0", "1", "1", ""], True),
        (["DOE^JANE", "ROE^JOHN", "DOE^JANE", ""], False),
        (["2024-05-01", "2024-05-02", "2024-05-01", "2024-05-02"], False),
        (["0", "1", "2", "1"], False),
        (["1", "1", "1", "1"], False),
    ],
)
def test_only_columns_of_0_and_1_are_subgroups_by_themselves(values: list[str], describes: bool) -> None:
    assert describing_columns(cases(values)) == ["scanner"] * describes


def test_a_column_that_is_the_source_is_named_once() -> None:
    both = [replace(case, source=case.extra["scanner"]) for case in cases(["0", "1", "1"])]
    assert describing_columns(both) == ["source"]
