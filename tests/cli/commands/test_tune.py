"""``reslink tune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reslink.cli.main import app

RESULT = {
    "answer": ["The best recipe is trial 3."],
    "failed": [],
    "not_done": ["1 trial diverged."],
    "best": {"recipe": "tuned/best.yaml", "bundle": "tuned/runs/abc/bundle"},
    "page": "tuned/tune.html",
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Replaces the search."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr("reslink.api.tune.tune", lambda *arguments, **options: calls.append((arguments, options)) or RESULT)
    return calls


def invoke(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["tune", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_the_answer_is_printed_and_the_rest_is_a_note(calls: list[Any], tmp_path: Path) -> None:
    code, out, err = invoke("heads", "--out", tmp_path / "tuned", "--trials", 5, "--jobs", 2, "--set", "seed=4")
    assert (code, out) == (0, "The best recipe is trial 3.\n")
    assert "Note: 1 trial diverged." in err
    assert "recipe: tuned/best.yaml\nbundle: tuned/runs/abc/bundle\npage: tuned/tune.html" in err
    assert "Research use only" in err
    [((data, out_folder), options)] = calls
    assert (data, out_folder) == (Path("heads"), tmp_path / "tuned")
    assert (options["trials"], options["minutes"], options["jobs"], options["settings"]) == (5, None, 2, ["seed=4"])
    assert (options["folds"], options["holdout"], options["space"], options["preset"]) == (5, 0.2, None, None)


def test_json_is_the_result(calls: list[Any], tmp_path: Path) -> None:
    code, out, _ = invoke("heads", "--out", tmp_path / "tuned", "--minutes", 1, "--json")
    assert code == 0
    assert json.loads(out) == RESULT


def test_failed_trials_are_named_and_the_exit_code_is_1(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESULT, "failed", [{"run": "trial 2", "reason": "fold 1: memory ran out"}])
    code, _, err = invoke("heads", "--out", tmp_path / "tuned", "--trials", 5)
    assert code == 1
    assert "Warning: trial 2 failed: fold 1: memory ran out" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trials", "0"), "Error: The number of trials is 0.\n  It is 1 or higher; the first one is the base recipe."),
        ((), "Error: Neither --trials nor --minutes was given."),
        (("--trials", "3", "--minutes", "3"), "Error: --trials and --minutes were both given."),
        (("--trials", "3", "--preset", "god"), "Error: There is no preset 'god'."),
        (("--trials", "3", "--folds", "2"), "Error: The number of folds is 2."),
    ],
)
def test_wrong_usage_has_three_parts_and_exit_code_2(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    code, out, err = invoke(tmp_path, "--out", tmp_path / "tuned", *words)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == 3
