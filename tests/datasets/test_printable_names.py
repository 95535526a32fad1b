"""Names that cannot be written to a table are dropped and reported."""

from __future__ import annotations

from pathlib import Path

from reslink.datasets.manifest import Manifest
from reslink.datasets.printable_names import drop_unprintable, is_csv_safe


def test_unprintable_names_are_dropped(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for name in ("1.png", "2\n.png", "3.png "):
            (tmp_path / label / name).write_bytes(b"x")
    manifest = Manifest.open(tmp_path)
    assert [is_csv_safe(case) for case in manifest.cases] == [True, False, False] * 2
    fit, left_out = drop_unprintable(manifest)
    assert [case.name for case in fit.cases] == ["a/1.png", "b/1.png"]
    assert list(left_out) == ["a/2\\n.png", "a/3.png ", "b/2\\n.png", "b/3.png "]
