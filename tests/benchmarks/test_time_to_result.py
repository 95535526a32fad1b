"""Wrong usage of the comparison in equal training time gives a message."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from reslink.errors import UsageError


@pytest.mark.parametrize(
    "words", [["--budgets", "0"], ["--cores", "-1"], ["--lr", "fast"], ["--lr", "nan"], ["--budgets", "inf"]]
)
def test_a_wrong_number_is_wrong_usage(
    time_to_result: ModuleType,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["time_to_result.py", "run", str(tmp_path), "--out", str(tmp_path / "r.jsonl"), *words])
    with pytest.raises(SystemExit) as ended:
        time_to_result.main()
    assert ended.value.code == 2
    assert f"argument {words[0]}: invalid" in capsys.readouterr().err


def test_the_best_rate_of_none_is_refused(time_to_result: ModuleType) -> None:
    with pytest.raises(UsageError, match="no learning rate of resnet18 has been tried"):
        time_to_result._rate(None, [], "resnet18")
    assert time_to_result._rate(1e-4, [], "resnet18") == 1e-4


@pytest.mark.parametrize("verb", ["rates", "table"])
def test_a_file_without_results_is_refused(
    time_to_result: ModuleType, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["time_to_result.py", verb, str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit, match=r"none\.jsonl holds no results"):
        time_to_result.main()
