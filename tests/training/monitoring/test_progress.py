"""The progress protocol."""

from __future__ import annotations

from typing import Any

from reslink.training.monitoring.progress import Progress, SilentProgress, progress_callback


def test_only_newly_finished_steps_are_forwarded(listener: Any) -> None:
    on_progress = progress_callback(listener)
    seen = []
    for done in (1, 4, 4, 10):
        on_progress(done, 10)
        seen.append(listener.steps)
    assert seen == [1, 4, 4, 10]


def test_what_counts_as_a_progress(listener: Any) -> None:
    assert isinstance(SilentProgress(), Progress)
    assert isinstance(listener, Progress)
    assert not isinstance(print, Progress)
