"""Fixtures of the experiments: toy heads with duplicates, and helpers for reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner import run_trial


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Weights are compared byte by byte, and threads change sums."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_duplicates(write_toy_heads: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """48 toy heads: 24 images, each twice."""
    return Manifest.open(write_toy_heads(tmp_path_factory.mktemp("duplicates"), 24, duplicates=True))


@pytest.fixture
def forbid_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every later training fail."""

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("this trial is already complete")

    return lambda: monkeypatch.setattr(run_trial, "train", train)


@pytest.fixture(scope="session")
def table_rows() -> Callable[[dict[str, Any], str], list[dict[str, Any]]]:
    """Returns the rows of a table of a report by its name."""
    return lambda report, name: next(table["rows"] for table in report["tables"] if table["name"] == name)
