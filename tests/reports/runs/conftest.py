"""A folder of runs without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def runs(write_run_files: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a finished run, a better one in a folder of its own, and an interrupted one."""
    write_run_files(tmp_path / "runs" / "first")
    write_run_files(tmp_path / "runs" / "tuned" / "best", auroc=0.97, seed=1)
    write_run_files(tmp_path / "runs" / "broken off", finished=False, epochs=2, seed=3)
    return tmp_path / "runs"
