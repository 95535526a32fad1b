"""Text around printed predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import NO_OOD_DETECTOR
from reslink.cli.console import RESEARCH_USE, Console
from reslink.cli.prediction_text import abstention_text, error_line, print_usage_notes


def test_abstention() -> None:
    assert abstention_text(True, ("far from the data", "two classes")) == "\tabstains: far from the data; two classes"
    assert abstention_text(False, ()) == abstention_text(None, None) == ""


def test_an_error_does_not_repeat_the_path() -> None:
    assert error_line("a.png slice 2", "a.png", "a.png cannot be read") == "a.png slice 2: cannot be read"


def test_usage_notes_need_a_prediction(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.load(finished_run)
    print_usage_notes(Console(), bundle)
    assert NO_OOD_DETECTOR in capsys.readouterr().err
    print_usage_notes(Console(), bundle, predicted=False)
    assert capsys.readouterr().err == f"{RESEARCH_USE}\n"
