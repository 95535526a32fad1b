"""Where the package and the repository stand."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Path]:
    found = sorted((ROOT / "src" / "reslink").rglob("*.py"))
    assert len(found) > 20
    return found
