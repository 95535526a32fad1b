"""A folder of runs without a network."""

from __future__ import annotations

import json
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


@pytest.fixture
def search(write_run_files: Callable[..., Path], runs: Path) -> Path:
    """The folder of a search with three runs, below the other runs."""
    folder = runs / "search"
    for i, condition in enumerate(("trial 10, fold 2", "trial 2, fold 1", "base")):
        write_run_files(folder / "runs" / f"{i}a", finished=i > 0, data={"folds": 3, "fold": i})
        (folder / "runs" / f"{i}a" / "conditions.json").write_text(json.dumps({"conditions": [condition]}))
        (folder / "runs" / "locks" / f"{i}a").mkdir(parents=True)
    return folder
