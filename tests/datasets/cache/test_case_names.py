"""Texts in a shard name no file of the data set that filled it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from head_files import SMALL, head, open_cache

from reslink.datasets.cache import decode
from reslink.datasets.cache.case_names import hide_names, show_names
from reslink.datasets.cache.decode import DecodeJob
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.imaging.series_slices import SeriesSlices


def stored_text(cache: Path) -> str:
    return "".join(path.read_text() for path in cache.rglob("index.json"))


def test_failures_name_the_files_of_their_own_data_set(data: Path) -> None:
    (data / "a" / "MUELLER_HANS.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    other = data.parent / "other"
    shutil.copytree(data, other)
    (other / "a" / "MUELLER_HANS.png").rename(other / "a" / "case.png")
    [name, text] = next(iter(open_cache(data).failed.items()))
    assert name == "a/MUELLER_HANS.png"
    assert text.startswith("a/MUELLER_HANS.png cannot be read: the PNG data is truncated")
    found = open_cache(other)
    assert found.failed == {"a/case.png": text.replace("MUELLER_HANS", "case")}
    assert len([*(data.parent / "cache").glob("shards/*")]) == 1
    stored = stored_text(data.parent / "cache")
    assert "{case} cannot be read" in stored
    assert "MUELLER" not in stored
    assert str(data.parent) not in stored


def test_remarks_on_series_name_the_files_of_their_own_data_set(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decode.read_series_slices

    def remarked(path: Path, name: str, unit: str | None) -> SeriesSlices:
        series = plain(path, name, unit)
        return replace(series, unreadable=(f"{path} shows no head in slice 2",), notes=(f"{name} is uneven",))

    monkeypatch.setattr(decode, "read_series_slices", remarked)
    slices = np.stack([head(rng) for _ in range(3)])
    for folder, name in (("one", "MUELLER_HANS.npy"), ("two", "case.npy")):
        (tmp_path / folder).mkdir()
        for file, planes in ((name, slices), ("x.npy", slices[::-1]), ("y.npy", slices[:2]), ("z.npy", slices[1:])):
            np.save(tmp_path / folder / file, planes)
        (tmp_path / folder / "manifest.csv").write_text(f"path,label\n{name},a\nx.npy,a\ny.npy,b\nz.npy,b\n")
        manifest = Manifest.open(tmp_path / folder, case="series")
        notes = PixelCache.open(manifest, SMALL, tmp_path / "cache", 0, case="series").notes
        assert f"1 series: {name} is uneven" in notes
        assert f"1 series: A slice is left out: {name} shows no head in slice 2" in notes
    assert "MUELLER" not in stored_text(tmp_path / "cache")


def test_a_crash_names_the_case(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: DecodeJob) -> str:
        return f"{job.name} crashes the process that decodes it"

    monkeypatch.setattr(decode, "decode_case", lambda job: refuse(job) if job.path.name == "03.png" else plain(job))
    assert open_cache(data).failed == {"a/03.png": "a/03.png crashes the process that decodes it"}
    assert "{case} crashes" in stored_text(data.parent / "cache")


plain = decode.decode_case


class TestFilesOfASeries:
    @pytest.fixture
    def cases(self, tmp_path: Path) -> tuple[Case, Case]:
        """Two folders with the same content; the second has other names."""
        for folder, names in (("MUELLER", ("HANS_1.dcm", "HANS_12.dcm", "12")), ("case", ("x.dcm", "y.dcm", "7"))):
            (tmp_path / folder).mkdir()
            for i, name in enumerate(names):
                (tmp_path / folder / name).write_bytes(bytes([i]))
        return tuple(Case(tmp_path / name, "a", name=name) for name in ("MUELLER", "case"))  # type: ignore[return-value]

    @pytest.mark.parametrize(
        ("text", "other"),
        [
            ("{case}/HANS_12.dcm is damaged", "case/y.dcm is damaged"),
            ("{case}/12 is damaged", "case/7 is damaged"),
            ("{case} holds 12 series, with HANS_1.dcm (12 slices)", "case holds 12 series, with x.dcm (12 slices)"),
            ("{case} has 12 slices", "case has 12 slices"),
        ],
    )
    def test_are_named_by_their_content(self, cases: tuple[Case, Case], text: str, other: str) -> None:
        hidden = hide_names(text, cases[0])
        assert "HANS" not in hidden
        assert show_names(hidden, cases[0]) == text.replace("{case}", "MUELLER")
        assert show_names(hidden, cases[1]) == other

    def test_a_file_that_is_gone(self, cases: tuple[Case, Case]) -> None:
        hidden = hide_names("HANS_1.dcm is damaged", cases[0])
        (cases[1].path / "x.dcm").unlink()
        assert show_names(hidden, cases[1]) == "another file is damaged"

    def test_absolute_paths_are_hidden(self, cases: tuple[Case, Case], tmp_path: Path) -> None:
        mask = tmp_path / "my masks" / "m.png"
        case = Case(cases[0].path, "a", name="MUELLER", mask=mask)
        text = f"{case.path} and {mask} differ from /home/hans/x.png, at 3/4 mm/px; see https://example.org/a"
        assert hide_names(text, case) == (
            "{case} and the mask of {case} differ from another file, at 3/4 mm/px; see https://example.org/a"
        )
