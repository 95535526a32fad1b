"""Files of small data sets for the tests of their readers."""

from __future__ import annotations

from pathlib import Path

FOUR = "a1.png,a\na2.png,a\nb1.png,b\nb2.png,b\n"
"""Rows of a table of four of the images that the fixture ``images`` writes."""


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def table(root: Path, text: str | bytes, name: str = "manifest.csv") -> Path:
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
