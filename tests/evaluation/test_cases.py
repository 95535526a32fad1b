"""Selection of cases, and the folder of decoded images."""

from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.evaluation.cases import pixel_cache_folder, select_cases
from reslink.labels import Labels

LABELS = Labels(("Healthy", "Tumor"))


def manifest(*splits, label="Tumor"):
    cases = [Case(Path(f"/{i}.png"), label, name=f"{i}.png", split=split) for i, split in enumerate(splits)]
    return Manifest(tuple(cases), Labels(("Healthy", label)), Path("/"))


def test_one_split_is_selected():
    selected = select_cases(manifest("train", "test", "test"), LABELS, "test")
    assert [case.name for case in selected.cases] == ["1.png", "2.png"]
    assert len(select_cases(manifest("train", None), LABELS, None)) == 2


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(UsageError, match=r"'tset'.*test, train.*Did you mean 'test'"):
        select_cases(manifest("train", "test"), LABELS, "tset")
    with pytest.raises(UsageError, match="has no 'split' column"):
        select_cases(manifest(None, None), LABELS, "test")


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'Tumor'"):
        select_cases(manifest(None, label="Tumour"), LABELS, None)


def test_a_temporary_cache_folder_is_deleted(tmp_path):
    with pixel_cache_folder(tmp_path / "out", None) as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path / "out"
    assert not list((tmp_path / "out").iterdir())


def test_a_given_cache_folder_is_kept(tmp_path):
    with pixel_cache_folder(tmp_path / "out", tmp_path / "cache") as folder:
        assert folder == tmp_path / "cache"
    assert not (tmp_path / "out").exists()
