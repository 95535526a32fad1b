"""Makes the helper module of this folder importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from data_files import put


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return put(tmp_path, "a1.png", "a2.png", "b1.png", "b2.png", "m/b1.png")
