"""``reslink runs``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import reslink
from reslink.cli.main import app


@pytest.fixture
def runs(write_run_files: Callable[..., Path], tmp_path: Path) -> Path:
    write_run_files(tmp_path / "runs" / "first")
    write_run_files(tmp_path / "runs" / "second", auroc=0.97)
    return tmp_path / "runs"


def invoke(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["runs", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_the_table_is_printed(runs: Path) -> None:
    code, out, err = invoke(runs, "--sort", "auroc")
    head, *rows = (line.split("\t") for line in out.splitlines())
    assert code == 0
    assert [row[0] for row in rows] == ["second", "first"]
    cells = dict(zip(head, rows[1], strict=True))
    assert (cells["state"], cells["data"], cells["epochs"]) == ("finished", "cdcdcdcd", "3/3")
    assert cells["AUROC (95 % interval)"] == "0.900 (0.700 to 0.950)"
    assert "Research use only" in err


def test_series_are_not_called_images(runs: Path, write_run_files: Callable[..., Path], tmp_path: Path) -> None:
    assert "cases" not in invoke(runs)[1]
    write_run_files(runs / "whole", case="series")
    _, out, _ = invoke(runs, "--page", tmp_path / "runs.html")
    head, *rows = (line.split("\t") for line in out.splitlines())
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert (cells["whole"]["cases"], cells["whole"]["test cases"]) == ("5 series", "40 series")
    assert (cells["first"]["cases"], cells["first"]["test cases"]) == ("5 images", "40 images")
    page = (tmp_path / "runs.html").read_text()
    assert all(words in page for words in ("Test cases", "5 series", "40 series", "40 images"))
    by_name = {row["run"]: row for row in json.loads(invoke(runs, "--json")[1])["runs"]}
    assert (by_name["whole"]["case"], "case" in by_name["first"]) == ("series", False)


def test_the_runs_of_an_experiment_are_counted_in_one_line(write_run_files: Callable[..., Path], runs: Path) -> None:
    for name in ("1a", "2b"):
        write_run_files(runs / "cv" / "runs" / name)
        (runs / "cv" / "runs" / "locks" / name).mkdir(parents=True)
    _, out, err = invoke(runs)
    assert out.splitlines()[-1].split("\t")[:3] == ["cv", "2 runs", "2 finished"]
    assert len({len(line.split("\t")) for line in out.splitlines()}) == 1
    assert "2 runs of 1 experiment are counted, not listed. Use --all to list them." in err
    _, out, err = invoke(runs, "--all")
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == ["cv/runs/1a", "cv/runs/2b", "first", "second"]
    assert "counted" not in err


def test_means_over_several_labels_are_marked(write_run_files: Callable[..., Path], tmp_path: Path) -> None:
    write_run_files(tmp_path / "several", data={"labels": ["a", "b"]})
    head, row = (line.split("\t") for line in invoke(tmp_path)[1].splitlines())
    cells = dict(zip(head, row, strict=True))
    assert (cells["details"], cells["val. AUROC"]) == ("2 labels", "0.850 (mean)")
    assert cells["AUROC (95 % interval)"] == "0.900 (mean, 0.700 to 0.950)"


def test_json_is_what_the_function_returns(runs: Path) -> None:
    code, out, _ = invoke(runs, "--json", "--sort", "seed")
    assert code == 0
    assert json.loads(out) == reslink.runs(runs, sort="seed")


def test_unreadable_runs_are_named_and_counted(runs: Path) -> None:
    (runs / "first" / "config.yaml").write_text("seed: [")
    code, out, err = invoke(runs)
    assert code == 1
    assert "second" in out
    assert "first is skipped: " in err
    assert "1 folder could not be read." in err


def test_leaked_test_images_are_a_warning(runs: Path) -> None:
    path = runs / "first" / "evaluation.json"
    leakage = {"status": "allowed", "message": "3 cases overlap"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"leakage": leakage}))
    assert "Warning: first: 3 cases overlap." in invoke(runs)[2]


def test_a_page_is_written(runs: Path, tmp_path: Path) -> None:
    code, _, err = invoke(runs, "--page", tmp_path / "pages" / "runs.html")
    assert code == 0
    assert f"page: {tmp_path / 'pages' / 'runs.html'}" in err
    assert "Learning curves" in (tmp_path / "pages" / "runs.html").read_text()


@pytest.mark.parametrize("words", [("--sort", "auc"), ()])
def test_bad_input_has_three_parts(runs: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = invoke(runs if words else tmp_path / "empty", *words)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 3


def test_names_are_printed_without_control_characters(write_run_files: Callable[..., Path], runs: Path) -> None:
    write_run_files(runs / "evil\x1b[31m\n")
    assert "\x1b" not in invoke(runs)[1]
    assert "evil\\x1b[31m\\n" in invoke(runs)[1]
