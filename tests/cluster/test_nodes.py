"""A node works in the folder of the process that gives it a task, with the same reslink and the same storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import reslink
from reslink.cluster.nodes import WorkingPlace, check_files
from reslink.errors import UsageError


def test_a_node_works_in_the_folder_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    place = WorkingPlace.here(Path("../out"))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir("/")
    with place.enter():
        assert Path.cwd() == tmp_path / "work"
    assert Path.cwd() == Path("/")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "9.9"}, rf"A node of the cluster has reslink {reslink.__version__}, and this machine 9\.9"),
        ({"output": "/gone"}, "A node of the cluster has no folder /gone"),
        ({"folder": "/gone"}, "A node of the cluster has no folder /gone"),
    ],
)
def test_a_node_that_differs_is_refused(change: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message), replace(WorkingPlace.here(tmp_path), **change).enter():
        raise AssertionError("it works")


def test_a_node_without_the_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    check_files([Path("/gone/1.png"), tmp_path / "0.png"])
    check_files([])
    with pytest.raises(UsageError, match=r"A node of the cluster sees none of the 2 files from /gone/1\.png on\. .*Mount the"):
        check_files([Path("/gone/1.png"), Path("/gone/2.png")])
