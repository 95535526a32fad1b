"""Writes that are whole or not there, locks, and optional packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reslink.errors import StorageError, UsageError
from reslink.files import lock_folder, optional_import, sha256, write_atomic, write_json


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_former_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomic(tmp_path / "kept.txt", "former")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"kept.txt could not be written: No space left on device.*Free some space"):
        write_atomic(path, "new")
    assert path.read_text() == "former"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_content_is_on_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1])
    write_atomic(tmp_path / "x", "content")
    assert calls == ["fsync", "rename", "fsync"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert write_json(tmp_path / "x.json", {"ä": 1}).read_text() == '{\n  "ä": 1\n}\n'


def test_sha256_of_bytes_text_and_file(tmp_path: Path) -> None:
    expected = hashlib.sha256(b"abc").hexdigest()
    assert sha256(b"abc") == sha256("abc") == sha256(write_atomic(tmp_path / "f", "abc")) == expected


def test_a_folder_has_one_holder_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    code = f"from reslink.files import lock_folder\nwith lock_folder({str(tmp_path)!r}): print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match="in use by another reslink process"), lock_folder(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with lock_folder(tmp_path):
        pass


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(UsageError, match=r"'no_such_package' is not installed.*pip install \"reslink\[gdcm\]\""):
        optional_import("no_such_package.part", "gdcm")
    assert optional_import("json.decoder", "any").JSONDecoder
