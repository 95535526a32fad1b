"""The made-up folder in S3 of the benchmark of lists."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from reslink.imaging.search import iter_series


@pytest.mark.usefixtures("s3")
def test_made_up_folders_have_the_files_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark: Any = importlib.import_module("remote_listing")
    with benchmark.running_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert benchmark.cut("masks", 2100) == 1050  # three pages
        assert benchmark.cut("folders", 50) == 50
        for kind, lengths in (("series", [30, 5]), ("slices", [1] * 35)):
            found = list(iter_series(f"s3://bucket/{kind}/35/"))
            assert [len(files) for files in found] == lengths
            assert [path.name for files in found for path in files] == [f"{i:09d}.dcm" for i in range(35)]
        row = benchmark.measure("flat", 10)
    assert (row["images"], float(row["MiB at most"]) >= float(row["MiB before"]) > 0) == (10, True)
