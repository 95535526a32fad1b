"""Names and classes of compared models."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.errors import UsageError
from reslink.evaluation.compared_models import common_labels, short_names


def test_names_are_short_and_different(tmp_path: Path) -> None:
    assert short_names([tmp_path / "a" / "bundle", tmp_path / "b"]) == ["a", "b"]
    assert short_names([tmp_path / "x" / "seed0", tmp_path / "y" / "seed0" / "bundle"]) == ["x-seed0", "y-seed0"]
    with pytest.raises(UsageError, match="2 bundles were given, 1 of them different"):
        short_names([tmp_path / "a", tmp_path / "a" / "bundle"])
    with pytest.raises(UsageError, match="needs at least two different bundles"):
        short_names([tmp_path / "a"])


def test_models_of_other_classes_are_not_compared() -> None:
    assert common_labels([("a", ["x", "y", "z"]), ("b", ["z", "y", "x"])]).names == ("x", "y", "z")
    with pytest.raises(UsageError, match="The classes differ: a has x, y, b has x, z"):
        common_labels([("a", ["x", "y"]), ("b", ["x", "z"])])
    with pytest.raises(UsageError, match="the same positive class"):
        common_labels([("a", ["x", "y"]), ("b", ["y", "x"])])
