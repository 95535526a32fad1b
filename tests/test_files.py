"""Atomic writes, folder locks, and imports of optional packages."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reslink
from reslink.errors import StorageError, UsageError
from reslink.files import (
    check_output_file,
    csv_text,
    install_command,
    is_locked,
    lock_folder,
    optional_import,
    remove_parts,
    replace_folder,
    sha256,
    write_atomic,
    write_json,
)


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


def test_only_parts_of_atomic_writes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("scan.part", ".scan.part", ".a.json.12-xyz.part"):
        (tmp_path / name).touch()
    kept = {*tmp_path.rglob("*"), tmp_path / "a.json", tmp_path / "in" / ".attempts"}
    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda part, target: (replace(part, target), part.write_text("half"))[0])
        for target in (tmp_path / "a.json", tmp_path / "in" / ".attempts"):
            write_atomic(target, "whole")
    assert len({*tmp_path.rglob("*")} - kept) == 2
    remove_parts(tmp_path)
    assert {*tmp_path.rglob("*")} == kept


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
    assert is_locked(tmp_path)
    with pytest.raises(UsageError, match="in use by another reslink process"), lock_folder(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "missing")
    with lock_folder(tmp_path):
        pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stream: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(UsageError, match=r"cannot be locked: No locks available\. .* \(flock\).*Mount it with locks"),
        lock_folder(tmp_path, wait=True),
    ):
        pass


def test_a_missing_package_names_a_command_that_installs_it() -> None:
    command = r"python -m pip install \"python-gdcm>=[\d.]+\""
    with pytest.raises(UsageError, match=rf"'no_such_package' is not installed.*'gdcm'.*Run: {command}\."):
        optional_import("no_such_package.part", "gdcm")
    assert optional_import("json.decoder", "any").JSONDecoder


def test_an_install_command_names_packages_and_resolves_extras_within_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    required = [
        "numpy>=1.26",
        "a>=1; extra == 'one'",
        'b>=2; sys_platform != "win32" and extra == "two"',
        f"c>=3; sys_platform != {sys.platform!r} and extra == 'two'",
        "reslink[one,two]; extra == 'all'",
        "d>=4; extra == 'all'",
    ]
    monkeypatch.setattr("reslink.files.metadata.requires", lambda _: required)
    assert install_command("one") == 'python -m pip install "a>=1"'
    assert install_command("two") == 'python -m pip install "b>=2"'
    assert install_command("all") == 'python -m pip install "a>=1" "b>=2" "d>=4"'
    assert install_command("one", "two") == 'python -m pip install "a>=1" "b>=2"'


def test_an_error_while_writing_leaves_no_folder(tmp_path: Path) -> None:
    def fail_while_writing() -> None:
        with replace_folder(tmp_path / "new" / "export", "export.json", "export") as part:
            (part / "half").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_while_writing()
    assert list((tmp_path / "new").iterdir()) == []


def test_every_extra_has_an_install_command() -> None:
    for extra in importlib.metadata.metadata("reslink").get_all("Provides-Extra"):
        assert re.fullmatch(r'python -m pip install( "[^"; ]+")+', install_command(extra)), extra


def test_an_unknown_extra_is_an_error_and_not_an_empty_command() -> None:
    with pytest.raises(ValueError, match="reslink has no extra 'export'"):
        install_command("export")


def test_every_extra_named_in_the_source_is_declared() -> None:
    declared = importlib.metadata.metadata("reslink").get_all("Provides-Extra")
    source = "".join(path.read_text() for path in Path(reslink.__file__).parent.rglob("*.py"))
    named = re.findall(r"""(?:install_command|missing_package)\(["'](\w+)["']\)""", source)
    assert "train" in named
    assert set(named) <= set(declared)


def test_a_clone_that_is_not_installed_installs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(_name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("reslink.files.metadata.requires", requires)
    assert install_command("serve", "dicom") == 'python -m pip install -e ".[serve,dicom]"'


@pytest.mark.parametrize("cell", ["a\rb", "\r", "a\nb", "a\r\nb", 'a"b', "a,b", " a ", "", "Ä"])
def test_every_cell_of_a_csv_can_be_read_again(cell: str) -> None:
    text = csv_text(("name", "number"), [{"name": cell, "number": 1, "other": 2}, {"name": "x"}])
    assert text.startswith("name,number\n")
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [["name", "number"], [cell, "1"], ["x", ""]]


def test_text_with_a_byte_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xe9d.png")
    path = write_json(tmp_path / "x.json", {"Köpfe": name})
    assert "Köpfe" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"Köpfe": name}


def test_an_output_file_is_new_or_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    check_output_file(path, "--out", "a CSV file", "split.csv", overwrite=False)
    path.touch()
    check_output_file(path, "--out", "a CSV file", "split.csv", overwrite=True)
    with pytest.raises(UsageError, match=r"x\.csv exists.*Choose another --out, or add --overwrite"):
        check_output_file(path, "--out", "a CSV file", "split.csv", overwrite=False)
    with pytest.raises(UsageError, match=r"is a folder.*--out must name a CSV file.*Use --out .*split\.csv"):
        check_output_file(tmp_path, "--out", "a CSV file", "split.csv", overwrite=True)
