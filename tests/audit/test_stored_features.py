"""Features that were stored are those that were extracted, bit by bit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.audit.extract import CaseFile, FileFeatures, Volume, extract_features
from reslink.audit.stored_features import features_from_lines, features_to_lines

pytestmark = pytest.mark.filterwarnings("ignore::reslink.imaging.limits.ImagingWarning")


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other) or isinstance(one, np.generic)
    if is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_features_volumes_and_messages_come_back(ring_heads: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((3, 64, 64), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    text = np.zeros((256, 256), np.uint8)
    text[20:30:2, 20:120] = 255
    Picture.fromarray(text).save(tmp_path / "text.png")
    paths = [*sorted(ring_heads.glob("*.png"))[:3], *sorted(tmp_path.iterdir())]
    items = [extract_features(CaseFile(path.name, path)) for path in paths]
    assert {type(item) for item in items} == {FileFeatures, Volume, str}
    lines = features_to_lines(items)
    assert len(lines.splitlines()) == len(paths)
    stored = features_from_lines(lines.splitlines())
    assert len(stored) == len(items)
    for one, other in zip(items, stored, strict=True):
        assert_same(one, other)
