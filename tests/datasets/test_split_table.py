"""A split as a table: nothing is lost, and it reads back to the same images wherever it lies."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from reslink.datasets.grouping import group_cases
from reslink.datasets.manifest import Manifest
from reslink.datasets.split_table import drop_given_split, split_columns, write_split_table
from reslink.errors import CheckFailedError

HEADER = "scanner,Path,label,mask,patient_id,split,age"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 images of 12 patients in two classes, with masks, further columns and a stated split that tears patients."""
    root = tmp_path / "some" / "data"
    lines = [HEADER]
    for i in range(24):
        name = f"{'ab'[i % 2]}/{i:02}.png"
        for path in (root / name, root / "masks" / f"{i:02}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([i]))
        mask = f"masks/{i:02}.png" if i % 2 else ""
        lines.append(f'"x, {i % 3}",{name},{"ab"[i % 2]},{mask},p{i // 2},{("train", "test")[i // 3 % 2]},{i}')
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def written(data: Path, out: Path, k: int | None = None, seed: int = 0) -> Path:
    manifest = drop_given_split(Manifest.open(data))
    groups = group_cases(manifest, None, "patient")
    return write_split_table(out, Manifest.open(data), split_columns(manifest, groups, n_folds=k, seed=seed))


@pytest.mark.parametrize("place", ["split.csv", "a/split.csv", "sub/deep/split.csv", "../split.csv", "../../other/split.csv"])
def test_it_reads_back_from_any_folder(data: Path, place: str) -> None:
    out = data / place
    out.parent.mkdir(parents=True, exist_ok=True)
    out = out.resolve()
    written(data, out)
    assert not any(Path(row["path"]).is_absolute() for row in rows(out))
    back, before = Manifest.open(out), Manifest.open(data)
    assert [case.path for case in back.cases] == [case.path for case in before.cases]
    assert [case.mask for case in back.cases] == [case.mask for case in before.cases]
    assert [case.patient_id for case in back.cases] == [case.patient_id for case in before.cases]
    assert {case.split for case in back.cases} == {"train", "validation", "test"}
    assert all(case.path.is_relative_to(back.root) for case in back.cases)
    assert len({case.name for case in back.cases}) == 24


def test_all_columns_stay_in_their_order(data: Path, tmp_path: Path) -> None:
    out = written(data, tmp_path / "split.csv")
    found = rows(out)
    assert list(found[0]) == ["scanner", "path", "label", "mask", "patient_id", "given_split", "age", "group", "split"]
    for old, new in zip(rows(data / "manifest.csv"), found, strict=True):
        assert all(old[name] == new[name] for name in ("scanner", "label", "patient_id", "age"))
        assert old["split"] == new["given_split"]
        assert (out.parent / new["path"]).read_bytes() == (data / old["Path"]).read_bytes()


def test_a_table_of_a_table_keeps_what_was_given_first(data: Path, tmp_path: Path) -> None:
    first = written(data, tmp_path / "first.csv")
    second = written(first, tmp_path / "second.csv", k=3, seed=5)
    names = list(rows(second)[0])
    assert len(names) == len(set(names))
    assert [row["given_split"] for row in rows(second)] == [row["split"] for row in rows(data / "manifest.csv")]
    assert [row["given_split_2"] for row in rows(second)] == [row["split"] for row in rows(first)]
    assert {row["fold"] for row in rows(second)} == {"0", "1", "2"}


def test_class_folders_get_the_columns_that_they_have(data: Path, tmp_path: Path) -> None:
    (data / "manifest.csv").unlink()
    manifest = Manifest.open(data)
    out = write_split_table(tmp_path / "split.csv", manifest, {"group": ["g"] * 24, "split": ["train"] * 24})
    assert list(rows(out)[0]) == ["path", "label", "group", "split"]


def test_whole_patients_and_the_same_for_the_same_seed(data: Path, tmp_path: Path) -> None:
    found = rows(written(data, tmp_path / "1.csv", seed=1))
    assert len({(row["patient_id"], row["split"]) for row in found}) == 12
    assert (tmp_path / "1.csv").read_text() == written(data, tmp_path / "2.csv", seed=1).read_text()
    assert (tmp_path / "1.csv").read_text() != written(data, tmp_path / "3.csv", seed=2).read_text()


@pytest.mark.parametrize(
    ("k", "sides"), [(2, {"0": "test", "1": "train"}), (3, {"0": "test", "1": "validation", "2": "train"})]
)
def test_folds(data: Path, tmp_path: Path, k: int, sides: dict[str, str]) -> None:
    found = rows(written(data, tmp_path / "folds.csv", k=k))
    assert {(row["fold"], row["split"]) for row in found} == set(sides.items())
    assert len({(row["patient_id"], row["fold"]) for row in found}) == 12


def test_a_given_split_with_group_leakage_is_refused(data: Path) -> None:
    manifest = Manifest.open(data)
    with pytest.raises(CheckFailedError, match=r"patient appears in two parts of the given split.*reslink split"):
        split_columns(manifest, group_cases(manifest, None, "patient"))


def test_folds_of_an_earlier_split_are_renamed(data: Path, tmp_path: Path) -> None:
    first = written(data, tmp_path / "first.csv", k=3)
    second = written(first, tmp_path / "second.csv", seed=5)
    assert "fold" not in rows(second)[0]
    assert [row["given_fold"] for row in rows(second)] == [row["fold"] for row in rows(first)]
    third = written(second, tmp_path / "third.csv", k=4)
    assert [row["given_fold"] for row in rows(third)] == [row["fold"] for row in rows(first)]
    assert {row["fold"] for row in rows(third)} == {"0", "1", "2", "3"}


class TestPathsOutsideTheFolder:
    @pytest.fixture
    def table(self, data: Path) -> Path:
        return written(data, data.parent / "tables" / "split.csv")

    def test_a_file_beside_the_table_changes_no_path(self, table: Path) -> None:
        before = [case.path for case in Manifest.open(table).cases]
        (table.parent / "own.png").write_bytes(b"x")
        lines = table.read_text().splitlines()
        table.write_text("\n".join([*lines, lines[-1].replace("../data/b/23.png", "own.png")]))
        manifest = Manifest.open(table)
        assert [case.path for case in manifest.cases] == [*before, table.parent / "own.png"]
        assert manifest.root == table.parent.parent
        assert [case.name for case in manifest.cases[-2:]] == ["data/b/23.png", "tables/own.png"]

    def test_up_to_the_root_of_the_disk_no_name_is_an_absolute_path(self, table: Path) -> None:
        up = "../" * 30
        lines = table.read_text().splitlines()
        table.write_text("\n".join([*lines, lines[-1].replace("../data/b/23.png", f"{up}etc/passwd")]))
        manifest = Manifest.open(table)
        assert [case.name for case in manifest.cases[-2:]] == ["data/b/23.png", "etc/passwd"]
        assert str(manifest.cases[-1].path) == "/etc/passwd"
        written = write_split_table(table.with_name("again.csv"), manifest, {"split": ["train"] * len(manifest)})
        assert [case.path for case in Manifest.open(written).cases] == [case.path for case in manifest.cases]

    def test_through_a_link_to_the_table_s_folder(self, table: Path, tmp_path: Path) -> None:
        (tmp_path / "far" / "away").mkdir(parents=True)
        (tmp_path / "far" / "away" / "link").symlink_to(table.parent)
        assert len(Manifest.open(tmp_path / "far" / "away" / "link" / "split.csv")) == 24

    def test_backslashes(self, table: Path) -> None:
        table.write_text(table.read_text().replace("/", "\\"))
        assert len(Manifest.open(table)) == 24
