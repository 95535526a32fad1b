"""Runs the notebooks of this folder and stores their outputs: ``python docs/notebooks/execute.py``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> None:
    """Runs a notebook in a temporary folder and stores its outputs, without warnings, times or versions of this machine."""
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": folder}})
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = metadata
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        execute(path)
