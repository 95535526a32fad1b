"""A small data set of heads, and the names of its cases that are decoded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from reslink.datasets.cache import decode
from reslink.datasets.cache.decode import DecodeJob

sys.path.insert(0, str(Path(__file__).parent))

from head_files import head, save


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    root = tmp_path / "data"
    for i in range(12):
        save(head(rng), root / ("a" if i < 6 else "b") / f"{i:02}.png")
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases decoded in this process."""
    names: list[str] = []
    plain = decode.decode_case

    def watched(job: DecodeJob) -> decode.DecodedCase | str:
        names.append("/".join(job.path.parts[-2:]))
        return plain(job)

    monkeypatch.setattr(decode, "decode_case", watched)
    return names
