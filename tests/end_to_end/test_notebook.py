"""The notebook runs offline from its first cell to its last, and is stored with the outputs of such a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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

ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/\w+/\w|[A-Z]:\\")


def code_cells(page: Any) -> list[Any]:
    return [cell for cell in page.cells if cell.cell_type == "code"]


def output_types(cell: Any) -> list[list[str]]:
    """The MIME types of each result and picture of a cell; text that it prints does not count."""
    return [sorted(output["data"]) for output in cell.outputs if "data" in output]


@pytest.mark.filterwarnings("default")  # of the kernel's own machinery
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("HOME", str(tmp_path))
    page = nbformat.read(PAGE, as_version=4)
    stored = [output_types(cell) for cell in code_cells(page)]
    page.cells.insert(0, nbformat.v4.new_code_cell(REFUSE_NETWORK))
    NotebookClient(page, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [output_types(cell) for cell in code_cells(page)[1:]] == stored, "run docs/notebooks/execute.py again"
    texts = [
        output["data"].get("text/plain", "") if "data" in output else output.get("text", "")
        for cell in code_cells(page)
        for output in cell.outputs
    ]
    assert any("'first_attention': (1, 1, 16, 16)" in text for text in texts), texts
    assert any("(48, 96, 96)" in text for text in texts)
    assert any("image/png" in output.get("data", {}) for output in page.cells[-2].outputs)
    score = next(float(text.rsplit(" ", 1)[1].rstrip(")")) for text in texts if text.startswith("(array([["))
    assert score >= 0.85, "the text says that the network learns to tell the contrasts apart"
    errors = [text for cell in page.cells for output in cell.get("outputs", ()) if (text := output.get("text"))]
    assert all("TqdmWarning" in text for text in errors), errors  # of a widget that the kernel may lack


def missing_outputs(page: Any) -> list[int]:
    """The numbers of the code cells that were not run, not run in order, or have no output."""
    return [
        number
        for number, cell in enumerate(code_cells(page), start=1)
        if not cell.get("outputs") or cell.get("execution_count") != number
    ]


def test_the_notebook_is_stored_with_its_outputs() -> None:
    page = nbformat.read(PAGE, as_version=4)
    nbformat.validate(page)
    assert missing_outputs(page) == [], "run docs/notebooks/execute.py"
    outputs = [output for cell in code_cells(page) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data"}, "no printed warnings, no errors"
    assert any("image/png" in output.data for output in outputs)
    texts = [str(value) for output in outputs for kind, value in output.data.items() if kind != "image/png"]
    assert [text for text in texts if ABSOLUTE_PATH.search(text)] == []
    assert {key for cell in page.cells for key in cell.metadata} == set(), "no times of a run"
    assert PAGE.stat().st_size < 60_000
    assert any("Research use only" in cell.source for cell in page.cells)


def test_a_notebook_without_outputs_is_noticed() -> None:
    page = nbformat.read(PAGE, as_version=4)
    code_cells(page)[2].outputs = []
    code_cells(page)[3].execution_count = None
    assert missing_outputs(page) == [3, 4]
    assert ABSOLUTE_PATH.search("'/home/jane/run'")
    assert ABSOLUTE_PATH.search(r"C:\Users\jane")
    assert not ABSOLUTE_PATH.search("https://example.org/a/b, a/b/c and <td>T1</td> / <b>T2</b>")
