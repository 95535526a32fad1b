"""The tables of docs/benchmarks are those of benchmarks/results, and a changed result is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml


@pytest.fixture
def copies(make_tables: ModuleType, tmp_path: Path) -> list[str]:
    """Returns the options that select a copy of the results and of the pages."""
    shutil.copytree(make_tables.RESULTS, tmp_path / "results")
    shutil.copytree(make_tables.PAGES, tmp_path / "pages", ignore=shutil.ignore_patterns("images"))
    return ["--results", str(tmp_path / "results"), "--pages", str(tmp_path / "pages")]


def test_the_pages_are_up_to_date(make_tables: ModuleType) -> None:
    assert make_tables.main(["--check"]) == 0


def test_a_changed_result_is_noticed_and_written(
    make_tables: ModuleType, copies: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, page = tmp_path / "results" / "pacs_soak.csv", tmp_path / "pages" / "pacs.md"
    before = page.read_text()
    results.write_text(results.read_text().replace("200,20,600,600,0", "200,20,600,599,1"))
    assert make_tables.main([*copies, "--check"]) == 3
    assert capsys.readouterr().out == "pacs.md is out of date\n"
    assert page.read_text() == before
    assert make_tables.main(copies) == 0
    assert page.read_text() == before.replace("| 200 | 20 | 600 | 600 | 0 |", "| 200 | 20 | 600 | 599 | 1 |") != before
    assert make_tables.main([*copies, "--check"]) == 0


def test_a_table_without_entry_or_page_is_refused(make_tables: ModuleType, copies: list[str], tmp_path: Path) -> None:
    page = tmp_path / "pages" / "pacs.md"
    text = page.read_text()
    page.write_text(text.replace("<!-- table: pacs_soak -->", "<!-- table: pacs_soaked -->"))
    with pytest.raises(SystemExit, match="No page shows pacs_soak"):
        make_tables.main(copies)
    page.write_text(text + "<!-- table: pacs_soaked -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="There is no table 'pacs_soaked'"):
        make_tables.main(copies)


@pytest.mark.parametrize("row", ["all, with a comma,1", "one"])
def test_a_row_with_more_or_fewer_cells_than_the_header_is_refused(make_tables: ModuleType, tmp_path: Path, row: str) -> None:
    (tmp_path / "t.csv").write_text(f"name,n\n{row}\n")
    with pytest.raises(SystemExit, match=r"Line 2 of .*t\.csv has not as many cells as the header\. Quote cells with a comma"):
        make_tables.read_rows(tmp_path / "t.csv")


def test_every_result_is_shown(make_tables: ModuleType) -> None:
    tables = yaml.safe_load((make_tables.RESULTS / "tables.yaml").read_text())["tables"]
    assert {entry.get("data", name) for name, entry in tables.items()} == {p.stem for p in make_tables.RESULTS.glob("*.csv")}


def test_a_table_merges_intervals_and_aligns_numbers(make_tables: ModuleType) -> None:
    rows = [
        {"network": "a", "AUROC": "0.950", "AUROC low": "0.9", "AUROC high": "0.97", "images": "12345"},
        {"network": "b|c", "AUROC": "-0.1", "AUROC low": "", "AUROC high": "", "images": ""},
    ]
    assert make_tables.table(rows) == [
        "| network | AUROC | images |",
        "|---|--:|--:|",
        "| a | 0.950 (0.9 to 0.97) | 12,345 |",
        r"| b\|c | −0.1 | – |",
    ]
    assert make_tables.table(make_tables.selected(rows, {"network": ["a"]}), ["images"])[2:] == ["| 12,345 |"]
