"""ZIP files: what is unpacked, and what is refused."""

from __future__ import annotations

import io
import zipfile

import pytest

from reslink.datasets.public import unzip
from reslink.datasets.public.unzip import unpack_zip
from reslink.errors import InputError


def make(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_members_are_written_and_kept_the_second_time(tmp_path):
    archive = make(tmp_path / "a.zip", {"x/1.jpg": b"one", "x/y/2.jpg": b"two", "empty/": b""})
    heard = []
    assert unpack_zip(archive, tmp_path / "out", lambda *progress: heard.append(progress)) == 2
    assert (tmp_path / "out" / "x" / "y" / "2.jpg").read_bytes() == b"two"
    assert heard[-1] == (2, 2)
    assert unpack_zip(archive, tmp_path / "out") == 0


def test_nested_archives_are_unpacked_in_place(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as opened:
        opened.writestr("1.mat", b"slice")
    archive = make(tmp_path / "a.zip", {"set/inner.zip": inner.getvalue(), "README.txt": b"read"})
    unpack_zip(archive, tmp_path / "out")
    assert (tmp_path / "out" / "set" / "1.mat").read_bytes() == b"slice"
    assert not (tmp_path / "out" / "set" / "inner.zip").exists()


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/x", "a/../../b", "..\\b", "c:/x"])
def test_a_member_outside_the_folder_is_refused(tmp_path, name):
    archive = make(tmp_path / "a.zip", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(InputError, match="points outside the folder"):
        unpack_zip(archive, tmp_path / "in" / "out")
    assert not (tmp_path / "in" / "out").exists()


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    archive = make(tmp_path / "a.zip", {"zeros.jpg": bytes(30_000_000)})
    with pytest.raises(InputError, match="grows from"):
        unpack_zip(archive, tmp_path / "out")
    monkeypatch.setattr(unzip, "MAX_MEMBERS", 0)
    with pytest.raises(InputError, match="it contains 1 files"):
        unpack_zip(archive, tmp_path / "out")


def test_a_damaged_archive_is_refused_and_named(tmp_path):
    bad = tmp_path / "page.zip"
    bad.write_bytes(b"<html>log in</html>")
    with pytest.raises(InputError, match=r"page\.zip cannot be unpacked"):
        unpack_zip(bad, tmp_path / "out")
    archive = make(tmp_path / "a.zip", {"1.jpg": b"content " * 1000})
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip cannot be unpacked|could not be written"):
        unpack_zip(archive, tmp_path / "out2")


def unpacked_whole(archive, folder):
    """Whether it was; else it was refused, and nothing else may come of it."""
    try:
        unpack_zip(archive, folder)
    except InputError as error:
        return f"{archive.name} cannot be unpacked" not in str(error)
    (folder / "1.jpg").unlink()
    return True


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_any_kind_is_refused_and_named(tmp_path, method):
    """Each place in turn: the libraries below raise errors of their own."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as opened:
        opened.writestr("1.jpg", bytes(range(256)) * 8)
    content = (tmp_path / "a.zip").read_bytes()
    refused = []
    for at in range(35, len(content) - 80):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        (tmp_path / "b.zip").write_bytes(damaged)
        refused.append(not unpacked_whole(tmp_path / "b.zip", tmp_path / "out"))
    assert sum(refused) > 0.8 * len(refused)


@pytest.mark.parametrize("name", [".", "./."])
def test_a_member_without_a_name_is_refused(tmp_path, name):
    archive = make(tmp_path / "a.zip", {name: b"1"})
    with pytest.raises(InputError, match="points outside the folder"):
        unpack_zip(archive, tmp_path / "out")
