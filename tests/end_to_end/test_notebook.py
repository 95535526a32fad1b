"""The notebook runs from its first cell to its last, offline, and says what its text says."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NotebookClient = pytest.importorskip("nbclient").NotebookClient

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "first-model.ipynb"

REFUSE_NETWORK = """
import socket
def _refused(*_, **__):
    raise OSError("the notebook asked for a network connection")
socket.create_connection = socket.getaddrinfo = _refused
"""


@pytest.mark.filterwarnings("default")  # of the kernel's own machinery
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("HOME", str(tmp_path))
    page = nbformat.read(PAGE, as_version=4)
    page.cells.insert(0, nbformat.v4.new_code_cell(REFUSE_NETWORK))
    NotebookClient(page, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [
        output["data"].get("text/plain", "") if "data" in output else output.get("text", "")
        for cell in page.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert any("'first_attention': (1, 1, 16, 16)" in text for text in texts), texts
    assert any("(48, 96, 96)" in text for text in texts)
    assert any("image/png" in output.get("data", {}) for output in page.cells[-2].outputs)
    score = next(float(text.rsplit(" ", 1)[1].rstrip(")")) for text in texts if text.startswith("(array([["))
    assert score >= 0.85, "the page says that the network learns to tell them"
    errors = [text for cell in page.cells for output in cell.get("outputs", ()) if (text := output.get("text"))]
    assert all("TqdmWarning" in text for text in errors), errors  # of a widget that the kernel may lack


def test_the_page_is_kept_small_and_without_output() -> None:
    page = nbformat.read(PAGE, as_version=4)
    nbformat.validate(page)
    assert PAGE.stat().st_size < 20_000
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in page.cells)
    assert any("Research use only" in cell.source for cell in page.cells)
