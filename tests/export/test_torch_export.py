"""The program of torch.export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_it_is_read_back_and_described(check_export: Callable[[str, set[str]], Path]) -> None:
    check_export("torch-export", {"model.pt2"})
