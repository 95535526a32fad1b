"""Each node of a real cluster is asked once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.cluster import inspection
from reslink.cluster.inspection import inspect_nodes

pytestmark = pytest.mark.slow


def test_every_node_answers(connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = inspect_nodes(tmp_path)
    assert [(node.cores, node.version, node.has_folder, node.error) for node in nodes] == [
        (1, reslink.__version__, True, "")
    ] * 2
    assert all(node.memory > 2**27 for node in nodes)
    assert list(tmp_path.iterdir()) == []

    def fails(_: str) -> None:
        raise ModuleNotFoundError("No module named 'reslink'")

    monkeypatch.setattr(inspection, "_look", fails)
    nodes = inspect_nodes(tmp_path)
    assert [(node.version, node.has_folder, node.error) for node in nodes] == [("", False, "No module named 'reslink'")] * 2
