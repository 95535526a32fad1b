"""Options that several commands share."""

from __future__ import annotations

import pytest

from reslink.cli.options import threads_from_environment


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None), ("0", None), ("-1", None)])
def test_threads_of_the_environment(value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads_from_environment() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_from_environment() is None
