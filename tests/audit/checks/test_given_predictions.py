"""Out-of-fold predictions from a file for the label error check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.audit.checks.given_predictions import GivenPredictions, caution
from reslink.errors import UsageError

HEAD = "sample_id,label,p_a,p_b,sha256\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "out_of_fold.csv"
    path.write_text(text)
    return path


def test_images_are_found_by_their_hash(tmp_path: Path) -> None:
    given = GivenPredictions.read(written(tmp_path, HEAD + "1,a,0.9,0.1,one\n2,b,0.2,0.8,two\n"))
    rows, y_prob = given.rows(["other", "two", "one"], ("b", "a"))
    assert rows.tolist() == [1, 2]
    np.testing.assert_allclose(y_prob, [[0.8, 0.2], [0.1, 0.9]])


def test_poor_predictions_are_named() -> None:
    targets, good = np.array([0] * 6 + [1] * 4), np.array([0.1] * 6 + [0.9] * 4)
    blind, swapped = good * 0.5, np.array([0.9, 0.9] + [0.1] * 4 + [0.9] * 4)
    two, three = ("a", "b"), ("a", "b", "c")
    assert caution(np.column_stack([1 - good, good]), targets, two) == ""
    assert caution(np.column_stack([1 - good, good, good * 0]), targets, three) == ""
    assert caution(np.column_stack([1 - blind, blind]), targets, two).startswith("these predictions never predict b, so many")
    poor = caution(np.column_stack([1 - swapped, swapped]), targets, two)
    assert poor.startswith("these predictions have an AUROC of 0.833, so many")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,label\n1,a\n", "has the columns sample_id, label"),
        (HEAD + "1,a,0.9,0.2,one\n", "no probabilities with the sum 1 in line 2"),
        (HEAD + "1,a,0.9,0.1,one\n2,a,nan,0.1,two\n", "in line 3"),
        (HEAD + "1,a,2,-1,one\n", "in line 2"),
        (HEAD + "1,a,,,one\n", "in line 2"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GivenPredictions.read(written(tmp_path, text))
    with pytest.raises(UsageError, match="cannot be read"):
        GivenPredictions.read(tmp_path / "missing.csv")


def test_predictions_of_other_data_are_refused(tmp_path: Path) -> None:
    given = GivenPredictions.read(written(tmp_path, HEAD + "1,a,0.9,0.1,one\n"))
    with pytest.raises(UsageError, match="have no column p_c"):
        given.rows(["one"], ("a", "c"))
    with pytest.raises(UsageError, match="None of the 1 images has a prediction"):
        given.rows(["two"], ("a", "b"))
