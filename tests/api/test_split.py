"""``reslink.split``."""

from __future__ import annotations

from pathlib import Path

import pytest

import reslink
from reslink.errors import UsageError


def test_no_patient_is_in_two_splits(heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = reslink.split(heads, tmp_path / "split.csv", seed=1)
    assert capfd.readouterr() == ("", "")
    assert summary["n"] == 28
    assert summary["n_patients"] == 14
    splits_of: dict[str | None, set[str | None]] = {}
    for case in reslink.Manifest.open(tmp_path / "split.csv").cases:
        splits_of.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    with pytest.raises(UsageError, match="exists"):
        reslink.split(heads, tmp_path / "split.csv")


def test_folds(heads: Path, tmp_path: Path) -> None:
    summary = reslink.split(reslink.Manifest.open(heads), tmp_path / "folds.csv", folds=3, group_by="patient")
    assert sum(summary["fold_sizes"]) == 28
    with pytest.raises(UsageError, match="folds=… and fractions=…"):
        reslink.split(heads, tmp_path / "x.csv", folds=3, fractions=(0.6, 0.2, 0.2))


def test_a_holdout_is_the_test_split_of_its_table(heads: Path, tmp_path: Path) -> None:
    summary = reslink.split(heads, tmp_path / "folds.csv", folds=3, holdout=0.25)
    assert summary["fold_sizes"] is not None
    assert sum(summary["fold_sizes"]) + sum(summary["images"]["test"].values()) == 28
    manifest = reslink.Manifest.open(tmp_path / "folds.csv")
    assert all((case.split == "test") == (case.extra["fold"] == "") for case in manifest.cases)
    with pytest.raises(UsageError, match=r"The hold-out is 0\.6"):
        reslink.split(heads, tmp_path / "x.csv", folds=3, holdout=0.6)
    with pytest.raises(UsageError, match="holdout=… was given without folds=…"):
        reslink.split(heads, tmp_path / "x.csv", holdout=0.2)
