"""The progress protocol."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.training.monitoring.progress import Progress, SilentProgress, phase, progress_callback


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


def test_a_phase_ends_also_after_an_error() -> None:
    calls: list[Any] = []

    class Recorder(SilentProgress):
        def start(self, total_steps: int, label: str, noun: str = "step") -> None:
            calls.append((total_steps, label, noun))

        def end(self) -> None:
            calls.append("end")

    def fail() -> None:
        with phase(Recorder(), 3, "Reading", "image"):
            calls.append("work")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert calls == [(3, "Reading", "image"), "work", "end"]
