"""Features of many files: in order, in any number of processes, and of remote files the same as of local ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reslink.audit.extract import CaseFile, Extracted, FileFeatures, Volume, extract_features
from reslink.audit.extraction import extract_all
from reslink.remote_errors import RemoteStorageError
from reslink.remote_paths import parse_remote


@pytest.fixture(scope="module")
def files(write_toy_heads: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Heads, a broken picture, a volume and a file that does not exist."""
    root = tmp_path_factory.mktemp("heads")
    heads = sorted(Path(write_toy_heads(root, 20)).rglob("*.png"))[:20]
    heads[3].write_bytes(b"\x89PNG no picture")
    np.save(root / "volume.npy", np.full((3, 64, 64), 9, np.uint8))
    return [*heads, root / "volume.npy", root / "none.png"]


def text_of(item: Extracted) -> str:
    return item if isinstance(item, str) else item.message if isinstance(item, Volume) else ""


def same(one: Extracted, other: Extracted) -> None:
    assert type(one) is type(other)
    if isinstance(one, FileFeatures):
        np.testing.assert_equal(asdict(one), asdict(other))


def test_the_features_of_one_file_after_the_other(files: list[Path]) -> None:
    cases = [CaseFile(path.name, path, "gray") for path in files]
    for one, other in zip(extract_all(cases, workers=2), map(extract_features, cases), strict=True):
        same(one, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_remote_files_have_the_features_of_local_ones(files: list[Path], s3: Any, workers: int) -> None:
    local = [CaseFile(path.name, path, "gray") for path in files]
    urls = [s3.put(f"audit/{path.name}", path.read_bytes()) for path in files[:-1]] + ["s3://heads/audit/none.png"]
    s3.reset()
    s3.refuse = lambda number, *_: number % 10 == 3
    remote = [CaseFile(Path(url).name, parse_remote(url) or Path(), "gray") for url in urls]
    extracted = list(extract_all(remote, workers))
    for one, other in zip(extracted[:-1], map(extract_features, local[:-1]), strict=True):
        same(one, other)
        assert text_of(one) == text_of(other)
    assert "none.png cannot be fetched" in text_of(extracted[-1])
    assert "s3://" not in text_of(extracted[-1]).partition(" A remote path")[0]
    answered = [path for number, (_, path) in enumerate(s3.requests) if number % 10 != 3]
    assert len(answered) == len(set(answered)) == len(files)


def test_a_storage_that_fails_ends_the_audit(files: list[Path], s3: Any) -> None:
    url = s3.put("audit/x.png", files[0].read_bytes())
    s3.refuse = lambda *_: True
    with pytest.raises(RemoteStorageError, match=r"x\.png cannot be fetched in 5 attempts"):
        list(extract_all([CaseFile("x.png", parse_remote(url) or Path())], workers=0))
