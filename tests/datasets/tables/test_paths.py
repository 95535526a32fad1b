"""Names of files that have no common folder, and files seen through links."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.datasets.tables.paths import find_file, locate, move_below, name_files
from reslink.datasets.tables.rows import Row
from reslink.errors import UsageError
from reslink.remote_paths import RemotePath, parse_remote


def named(*paths: str, others: tuple[str, ...] = (), folder: str = "/home/me/project") -> tuple[list[str], str]:
    files = [Path(path) for path in paths]
    names, root = name_files(files, map(Path, others), Path(folder))
    return [names[path] for path in files], str(root)


@pytest.mark.parametrize(
    ("paths", "names", "root"),
    [
        (("/home/me/project/a/1.png", "/home/me/project/2.png"), ["a/1.png", "2.png"], "/home/me/project"),
        (("/mnt/x/a/1.png", "/mnt/x/b/1.png"), ["a/1.png", "b/1.png"], "/mnt/x"),
        (("/mnt/x/1.png", "/home/me/project/1.png"), ["x/1.png", "project/1.png"], "/home/me/project"),
        (("/mnt/ct/1.png", "/data/ct/1.png"), ["ct_/1.png", "ct/1.png"], "/home/me/project"),
        (("/1.png", "/data/ct/1.png"), ["root/1.png", "ct/1.png"], "/home/me/project"),
    ],
)
def test_names_are_unique_and_hold_no_absolute_path(paths: tuple[str, ...], names: list[str], root: str) -> None:
    assert named(*paths) == (names, root)
    assert named(*reversed(paths)) == (names[::-1], root)


def test_masks_count_for_the_common_folder_only_outside_of_the_table_s_folder() -> None:
    assert named("/mnt/x/images/1.png", others=("/mnt/x/masks/1.png",)) == (["images/1.png"], "/mnt/x")
    assert named("/home/me/project/1.png", others=("/mnt/1.png",))[0] == ["1.png"]


@pytest.mark.parametrize(
    "text", ["file:///x/%00.png", "~nobody-there/1.png", "x" * 5000, "a\0b", "\\\\server\\share\\1.png", "%41.png"]
)
def test_what_cannot_be_located(tmp_path: Path, text: str) -> None:
    assert locate(text, tmp_path) is None


@pytest.mark.parametrize(
    "name", ["a b.png", "%41.png", "~.png", "~", "file:x.png", "a\\b.png", "x#1?.png", "ü.png", "a\nb.png"]
)
def test_a_literal_name_comes_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    assert locate(name, tmp_path) == path
    assert locate(path.as_uri(), tmp_path) == path
    assert locate(f"file://{path}", tmp_path) == path


def test_a_link_before_dots_is_followed(tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "1.png").write_bytes(b"x")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "inner")
    assert locate("link/../1.png", tmp_path / "here") == tmp_path / "far" / "1.png"


def test_a_file_below_a_folder_by_another_way(tmp_path: Path) -> None:
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert move_below(tmp_path / "link" / "a" / "1.png", tmp_path / "real") == tmp_path / "real" / "a" / "1.png"
    assert move_below(tmp_path / "real" / "a" / "1.png", tmp_path / "link") == tmp_path / "link" / "a" / "1.png"
    assert move_below(tmp_path / "2.png", tmp_path / "real") == tmp_path / "2.png"


def remote(url: str) -> RemotePath:
    path = parse_remote(url)
    assert path is not None
    return path


class TestRemote:
    def test_remote_files_below_a_remote_folder_are_named_by_their_path_below_it(self) -> None:
        folder = remote("s3://heads/data")
        files = [folder / name for name in ("a/1.png", "2.png")]
        assert name_files(files, [], folder) == ({files[0]: "a/1.png", files[1]: "2.png"}, folder)

    def test_other_remote_files_are_named_by_their_urls(self) -> None:
        far, local = remote("https://me:pass@images.org/1.png?sig=1"), Path("/mnt/x/a/1.png")
        names, root = name_files([far, local], [remote("s3://heads/mask.png")], Path("/home/me/project"))
        assert (names, root) == ({far: "https://images.org/1.png?…", local: "1.png"}, Path("/mnt/x/a"))
        assert name_files([far], [], Path("/home"))[1] == Path("/home")

    def test_urls_that_differ_only_in_their_query(self) -> None:
        files = [remote(f"https://images.org/get?id={i}") for i in range(2)]
        with pytest.raises(UsageError, match=r"named https://images\.org/get\?….*URL without the query.*URL of its own"):
            name_files(files, [], Path("/home"))

    def test_a_cell_names_a_url_or_a_file_below_a_remote_folder(self, tmp_path: Path) -> None:
        row = Row("t.csv", 3, {"path": "s3://heads/1.png", "mask": "../masks/1.png", "other": "http://heads/1.png"})
        assert find_file(row, "path", tmp_path) == remote("s3://heads/1.png")
        assert find_file(row, "mask", remote("s3://heads/data")) == remote("s3://heads/masks/1.png")
        assert move_below(remote("s3://heads/1.png"), tmp_path) == remote("s3://heads/1.png")
        with pytest.raises(
            UsageError, match=r"Row 3 of t\.csv names a path that cannot be used: http://heads/1\.png is not enc"
        ):
            find_file(row, "other", tmp_path)
