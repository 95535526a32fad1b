"""The list of a remote folder on disk."""

from __future__ import annotations

import random

from reslink.remote_listing import RemoteListing
from reslink.remote_paths import RemotePath

NAMES = ["z.png", "b/1.png", "b-c/1.png", "b/ä?.png", "b/c/2.png", "a/c/3.png", "a/9.png", "b/z.png", "a//9.png"]


def files_of(names: list[str]) -> list[list[RemotePath]]:
    with RemoteListing() as listing:
        for name in names:
            listing.add(RemotePath(f"s3://heads/{name}", f"version of {name}"))
        return [list(listing.files(folder)) for folder in listing.folders()]


def test_folders_are_sorted_by_their_first_file_and_files_by_name() -> None:
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    folders: dict[str, list[str]] = {}
    for name in sorted(NAMES):
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    for names in (sorted(NAMES), shuffled):
        found = files_of(names)
        assert [[file.url for file in files] for files in found] == [
            [f"s3://heads/{name}" for name in files] for files in folders.values()
        ]
        assert all(file.version == f"version of {file.url.removeprefix('s3://heads/')}" for files in found for file in files)


def test_a_file_that_is_listed_twice_is_there_once() -> None:
    assert files_of(["a.png", "b.png", "a.png"]) == [[RemotePath("s3://heads/a.png"), RemotePath("s3://heads/b.png")]]


def test_names_skipped_folders_and_stems() -> None:
    with RemoteListing() as listing:
        for name in ("b", "a"):
            listing.add(RemotePath(f"s3://heads/x/{name}"))
            listing.skip("masks")
        assert [list(listing.names(folder)) for folder in listing.folders()] == [["a", "b"]]
        assert list(listing.skipped()) == ["masks"]
        listing.keep_stems(["a", "a", "b"])
        assert [listing.has_stem(stem) for stem in "abc"] == [True, True, False]
        listing.keep_stems(["c"])
        assert [listing.has_stem(stem) for stem in "abc"] == [False, False, True]
