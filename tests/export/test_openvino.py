"""The OpenVINO IR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_it_is_read_back_and_described(check_export: Callable[[str, set[str]], Path]) -> None:
    out = check_export("openvino", {"network.xml", "network.bin"})
    assert (out / "network.xml").read_text().startswith("<?xml")
