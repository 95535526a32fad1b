"""Failed audits are remembered by a hash of the data, and repeated by train."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import reslink
from reslink.api.audit_memory import failed_checks, remember_audit
from reslink.api.train import _warn_of_failed_audit
from reslink.datasets.manifest import Manifest, images_digest
from reslink.files import sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reslink" / "audits"


def conflicting_data(folder: Path) -> Path:
    """Two classes with the same picture."""
    import numpy as np
    from PIL import Image as Picture

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(3):
            Picture.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(folder / label / f"{i}.png")
    (folder / "b" / "0.png").write_bytes((folder / "a" / "0.png").read_bytes())
    return folder


def opened(folder: Path) -> SimpleNamespace:
    manifest = Manifest.open(folder)
    hashes = {case.name: sha256(case.path) for case in manifest.cases}
    return SimpleNamespace(manifest=manifest, cache=SimpleNamespace(file_hashes=hashes))


def test_train_repeats_a_failed_audit_of_the_same_images_and_labels(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = conflicting_data(tmp_path / "data")
    result = reslink.audit(data, workers=0)
    assert "label_conflicts" in [check["check"] for check in result["checks"] if check["failed"]]
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    with caplog.at_level(logging.WARNING):
        _warn_of_failed_audit(opened(moved))
    assert re.search(r"audit of these images and labels failed \(.*label_conflicts.*reslink audit", caplog.text)
    [record] = cache.iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.json", record.name)
    assert "data" not in record.read_text()
    assert ".png" not in record.read_text()
    (moved / "b" / "0.png").unlink()
    changed = opened(moved)
    caplog.clear()
    _warn_of_failed_audit(changed)
    assert caplog.text == ""


def test_a_later_audit_that_passes_is_the_one_that_counts(cache: Path) -> None:
    remember_audit("0" * 64, ["file_metadata", "outside_head"])
    assert failed_checks("0" * 64) == ["file_metadata", "outside_head"]
    assert failed_checks("1" * 64) == []
    remember_audit("0" * 64, [])
    assert failed_checks("0" * 64) == []
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"failed": 3}'])
def test_a_damaged_record_is_ignored(cache: Path, content: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / f"{'0' * 64}.json").write_bytes(content)
    assert failed_checks("0" * 64) == []


def test_where_nothing_can_be_written_nothing_is_remembered(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in the way")
    remember_audit("0" * 64, ["file_metadata"])
    remember_audit("0" * 64, [])
    assert failed_checks("0" * 64) == []


def test_the_digest_depends_on_images_and_labels_only() -> None:
    images = [("1", "a"), ("2", "b"), ("3", "b")]
    assert images_digest(images) == images_digest(images[::-1])
    assert len({images_digest(some) for some in (images, images[:2], [("1", "b"), *images[1:]])}) == 3
