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
