"""Features that were stored are those that were extracted, bit by bit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from reslink.audit import stored_features
from reslink.audit.extract import CaseFile, Extracted, FileFeatures, Volume, extract_features
from reslink.audit.stored_features import StoredFeatures, features_from_parquet, features_to_parquet, make_store
from reslink.errors import UsageError

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


@pytest.fixture
def items(ring_heads: Path, tmp_path: Path) -> list[Extracted]:
    np.save(tmp_path / "volume.npy", np.zeros((3, 64, 64), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    Picture.fromarray(np.zeros((80, 80), np.uint8)).save(tmp_path / "blank.png")
    text = np.zeros((256, 256), np.uint8)
    text[20:30:2, 20:120] = 255
    Picture.fromarray(text).save(tmp_path / "text.png")
    paths = [*sorted(ring_heads.glob("*.png"))[:3], *sorted(tmp_path.glob("*.*"))]
    return [extract_features(CaseFile(path.name, path)) for path in paths]


@pytest.fixture
def usable(items: list[Extracted]) -> list[FileFeatures]:
    return [item for item in items if isinstance(item, FileFeatures)]


def stored(usable: list[FileFeatures]) -> StoredFeatures:
    kept = StoredFeatures()
    for item in usable:
        kept.append(item)
    kept.finish()
    return kept


@pytest.mark.parametrize("rows", [1000, 2])
def test_features_volumes_and_messages_come_back(
    items: list[Extracted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(stored_features, "GROUP_ROWS", rows)
    assert {type(item) for item in items} == {FileFeatures, Volume, str}
    assert {item.outside_head is None for item in items if isinstance(item, FileFeatures)} == {True, False}
    (tmp_path / "part").write_bytes(features_to_parquet(items))
    for one, other in zip(items, features_from_parquet(tmp_path / "part"), strict=True):
        assert_same(one, other)


def test_other_programs_read_the_part(usable: list[FileFeatures], tmp_path: Path) -> None:
    (tmp_path / "part.parquet").write_bytes(features_to_parquet(usable))
    table = pq.read_table(tmp_path / "part.parquet", columns=["sha256", "image.contrast", "histogram"]).to_pydict()
    assert table["sha256"] == [item.sha256 for item in usable]
    assert table["image.contrast"] == [item.image.contrast for item in usable]
    assert table["histogram"][0] == usable[0].histogram.tolist()


def test_an_empty_part_is_complete(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(features_to_parquet([]))
    assert list(features_from_parquet(tmp_path / "part")) == []


def test_stored_features_are_a_sequence(usable: list[FileFeatures], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_features, "GROUP_ROWS", 2)
    kept = stored(usable)
    assert len(kept) == len(usable) == 5
    for one, other, again in zip(usable, kept, [kept[i] for i in range(5)], strict=True):
        assert_same(one, other)
        assert_same(one, again)
    assert [item.sha256 for item in kept[3:1:-1]] == [item.sha256 for item in usable[3:1:-1]]
    with pytest.raises(IndexError):
        kept[5]
    assert np.array_equal(kept.thumbnails(), np.stack([item.thumbnail for item in usable]))


def test_many_files_are_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    assert make_store(20_000, messages.append) == []
    assert isinstance(make_store(20_001, messages.append), StoredFeatures)
    assert messages == []
    monkeypatch.setattr(stored_features, "optional_import", missing)
    assert make_store(300_000, messages.append) == []
    assert messages == ["The features of 300,000 files are kept in memory, 3 GiB: Got no pyarrow. It is needed. Install it."]


def missing(*_: str) -> None:
    raise UsageError("Got no pyarrow", "It is needed", "Install it")
