"""``reslink.runs``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import reslink
from reslink.errors import UsageError


@pytest.fixture
def runs(write_run_files: Callable[..., Path], tmp_path: Path) -> Path:
    write_run_files(tmp_path / "runs" / "first")
    write_run_files(tmp_path / "runs" / "second", auroc=0.97)
    return tmp_path / "runs"


def test_the_result_is_the_sorted_table(runs: Path) -> None:
    result = reslink.runs(runs, sort="auroc")
    assert [row["run"] for row in result["runs"]] == ["second", "first"]
    assert {key: value for key, value in result.items() if key != "runs"} == {
        "failed": {},
        "page": None,
        "research_use_only": True,
    }


def test_a_page_is_not_overwritten_unless_allowed(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "runs.html"
    assert reslink.runs(runs, page=page)["page"] == str(page)
    page.write_text("mine")
    with pytest.raises(UsageError, match=r"overwrite"):
        reslink.runs(runs, page=page)
    assert page.read_text() == "mine"
    reslink.runs(runs, page=page, overwrite=True)
    assert "Learning curves" in page.read_text()
    with pytest.raises(UsageError, match="must name an HTML file"):
        reslink.runs(runs, page=tmp_path, overwrite=True)


def test_options_are_checked_before_the_runs_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no column 'nothing'"):
        reslink.runs(tmp_path / "missing", sort="nothing")
