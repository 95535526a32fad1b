"""The page that compares runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from reslink.reports.runs.curves import MAX_CURVES, QUANTITIES
from reslink.reports.runs.page import write_page
from reslink.reports.runs.table import read_runs, sort_rows


def write(runs: Path, sort: str = "run", *, all_runs: bool = False) -> str:
    rows, failed = read_runs(runs)
    return write_page(runs.parent / "page.html", runs, sort_rows(rows, sort), failed, all_runs=all_runs).read_text()


def test_the_page_has_curves_a_legend_and_the_metrics_with_intervals(runs: Path) -> None:
    page = write(runs, "auroc")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == [title for title, _ in QUANTITIES.values()]
    assert page.index("tuned/best</li>") < page.index("first</li>") < page.index("broken off</li>")
    labels = re.findall(r'aria-label="(.*?)"', page)
    assert any(label.startswith("Validation AUROC: tuned/best from 0.700 to 0.900 in 3 epochs; first") for label in labels)
    assert "0.970" in page
    assert page.count("0.700 to 0.950") == 4
    for text in ("epoch</text>", "training loss</text>", "validation AUROC</text>"):
        assert text in page
    assert "cdcdcdcd" in page


def test_the_page_is_self_contained_and_names_no_absolute_path(runs: Path) -> None:
    (runs / "first" / "metrics.jsonl").write_text("nonsense\n")
    page = write(runs)
    assert not re.search(r"<script|<link|\bsrc=|href=\"(?!#)|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert str(runs.parent) not in page
    assert "first/metrics.jsonl cannot be used" in page


def test_names_are_escaped(write_run_files: Callable[..., Path], tmp_path: Path) -> None:
    write_run_files(tmp_path / "runs" / "<b>\x1b[31m$x_1$")
    write_run_files(tmp_path / "runs" / "m\udce9d")
    page = write(tmp_path / "runs")
    assert "<b>" not in page.replace("<b>Warning", "")
    assert "\x1b" not in page
    assert "&lt;b&gt;\\x1b[31m$x_1$" in page
    assert "m\\xe9d" in page


def test_runs_without_a_style_of_their_own_are_counted(write_run_files: Callable[..., Path], tmp_path: Path) -> None:
    for i in range(MAX_CURVES + 2):
        write_run_files(tmp_path / "runs" / f"{i:02d}")
    page = write(tmp_path / "runs")
    assert page.count("</li>") == MAX_CURVES
    assert "2 runs further down the table have no curve here" in page


@pytest.mark.parametrize("epochs", [0, 1])
def test_runs_without_curves_still_have_a_table(write_run_files: Callable[..., Path], tmp_path: Path, epochs: int) -> None:
    write_run_files(tmp_path / "runs" / "new", epochs=epochs, finished=False)
    page = write(tmp_path / "runs")
    assert "<figure>" not in page
    assert "new</th>" in page


def test_runs_of_one_epoch_are_counted_below_the_legend(write_run_files: Callable[..., Path], runs: Path) -> None:
    write_run_files(runs / "short", epochs=1)
    page = write(runs)
    assert "1 run of one epoch has no curve." in page
    assert "short</li>" not in page


def test_the_runs_of_an_experiment_are_one_line_unless_all_are_shown(runs: Path, search: Path) -> None:
    page = write(runs)
    assert "search<span" in page
    assert "3 runs of 1 experiment are counted" in page
    assert page.count("</li>") == 3
    page = write(runs, all_runs=True)
    assert "counted" not in page
    assert "search: trial 10, fold 2, seed 7</li>" in page
    assert 'search/<wbr>runs/<wbr>0a<span class="note">trial 10, fold 2</span>' in page
    assert "trial 10, fold 2, seed 7</li>" in write(search)


def test_means_over_several_labels_are_marked(write_run_files: Callable[..., Path], tmp_path: Path) -> None:
    write_run_files(tmp_path / "runs" / "several", data={"labels": ["a", "b"]})
    assert write(tmp_path / "runs").count("mean of 2 labels") == 3


def test_the_folder_itself_may_be_a_run(runs: Path) -> None:
    page = write(runs / "first")
    assert "first</li>" in page
