"""The progress of a function: off, a bar, or an object of the caller."""

from __future__ import annotations

import pytest

from reslink.api.progress import ProgressBar, resolve_progress
from reslink.training.monitoring.progress import SilentProgress


def test_true_false_and_an_object() -> None:
    bar = ProgressBar()
    assert isinstance(resolve_progress(True), ProgressBar)
    assert isinstance(resolve_progress(False), SilentProgress)
    assert resolve_progress(bar) is bar


def test_a_message_without_a_bar_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBar().message("Evaluating 3 test images")
    assert capsys.readouterr() == ("", "Evaluating 3 test images\n")
