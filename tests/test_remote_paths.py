"""Remote paths: which texts are remote paths, and what they show."""

from __future__ import annotations

import copy
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from reslink.cli.offline import block_network
from reslink.errors import UsageError
from reslink.remote_files import local_file
from reslink.remote_paths import RemotePath, check_local, parse_remote, without_secrets

SIGNED = "https://me:secret@images.org/a/b.nii.gz?X-Amz-Signature=5ec7e7&X-Amz-Credential=5ec7e7"


def sent(value: Any) -> Any:
    """Returns a value as another process would get it."""
    return ForkingPickler.loads(ForkingPickler.dumps(value))


def remote(text: str) -> RemotePath:
    path = parse_remote(text)
    assert path is not None
    return path


class TestPaths:
    @pytest.mark.parametrize("text", ["a.png", "/a/b.png", "C:/a.png", "s3:b", "file:///a.png", "s3", ""])
    def test_other_paths_are_not_remote(self, text: str) -> None:
        assert parse_remote(text) is None
        assert parse_remote(Path(text)) is None
        assert without_secrets(text) == text

    def test_objects_that_are_no_paths_are_not_remote(self) -> None:
        assert [parse_remote(value) for value in (None, b"s3://a/b", 3)] == [None, None, None]

    @pytest.mark.parametrize("text", ["s3://bucket/a/b.png", "gs://bucket/a/b.png", "https://images.org/a/b.png"])
    def test_a_path_that_joined_the_slashes_is_the_same(self, text: str) -> None:
        assert remote(text) == parse_remote(Path(text))
        assert (str(remote(text)), remote(text).url) == (text, text)
        assert parse_remote(remote(text)) is not None

    def test_it_stays_itself_where_paths_are_copied_and_sent_to_other_processes(self) -> None:
        path = remote(SIGNED)
        for same in (sent(path), copy.deepcopy(path), path.resolve(), path.absolute()):
            assert (same, same.url, hash(same)) == (path, SIGNED, hash(path))
        assert path != remote(SIGNED + "0")
        assert sent(RemotePath(SIGNED, "1")).version == "1"
        assert sorted([path, Path("/a")]) == [Path("/a"), path]

    def test_folders_and_files_below_them(self) -> None:
        path = remote("s3://bucket/a/b.png")
        assert path.parent == remote("s3://bucket/a")
        assert (path.parent / "c/../d.png") == remote("s3://bucket/a/d.png")
        assert path.relative_to(path.parent) == Path("b.png")
        assert (path.is_relative_to(path.parent), path.is_relative_to(Path("/tmp")), path.is_file()) == (True, False, False)
        assert remote(SIGNED).parent.url == "https://me:secret@images.org/a"

    def test_secrets_are_not_shown(self) -> None:
        path = remote(SIGNED)
        shown = "https://images.org/a/b.nii.gz?…"
        assert (str(path), f"{path}", repr(path), path.as_posix()) == (shown, shown, f"RemotePath({shown!r})", shown)
        assert without_secrets(SIGNED) == shown
        assert str(remote("az://container@account/x.png")) == "az://container@account/x.png"

    def test_http_and_credentials_in_the_urls_of_buckets_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"http://images\.org/a\.png is not encrypted.*begin with s3://.*Use https://"):
            parse_remote("http://images.org/a.png")
        with pytest.raises(UsageError, match=r"s3://bucket/a\.png was given with credentials.*AWS_ACCESS_KEY_ID") as error:
            parse_remote("s3://key:5ec7e7@bucket/a.png")
        assert "5ec7e7" not in str(error.value)

    def test_offline_refuses_them_by_name(self) -> None:
        block_network(True)
        try:
            with pytest.raises(UsageError, match=r"b\.nii\.gz\?… is a remote path, and --offline.*no connection.*copy the"):
                parse_remote(SIGNED)
            with pytest.raises(UsageError, match=r"s3://b/x is a remote path"), local_file("s3://b/x"):
                pass
        finally:
            block_network(False)

    @pytest.mark.parametrize("path", ["s3://heads/out", Path("s3://heads/out.csv"), "https://me:5ec7e7@images.org/out"])
    def test_an_output_is_no_url(self, path: str | Path) -> None:
        with pytest.raises(
            UsageError, match=r"--out .*out.* is a URL\. Only inputs may be URLs.*Give --out a path on"
        ) as error:
            check_local(path, "--out")
        assert "5ec7e7" not in str(error.value)
        check_local("s3/heads", "--out")
        check_local(Path("C:/heads"), "--out")
