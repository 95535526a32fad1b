"""Answers that are kept case by case, and what a kill or another setting does to them."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.errors import StorageError, UsageError
from reslink.experiments.robustness.prediction_store import Answer, KeptAnswers

SETTINGS = {"bundle": "a", "seed": 0}


def fill(folder, n=3, settings=SETTINGS, **options):
    with KeptAnswers(folder, settings, **options) as kept:
        for i in range(n):
            kept.put(str(i), Answer(np.full((2, 2), i + 0.25), None if i else np.array([True, False])))
    return folder / "answers.jsonl"


def test_what_was_put_is_there_again(tmp_path):
    fill(tmp_path)
    kept = KeptAnswers(tmp_path, SETTINGS)
    found = kept.get("0"), kept.get("2")
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].abstained is not None
    assert found[0].abstained.tolist() == [True, False]
    assert (found[1].logits == 2.25).all()
    assert found[1].abstained is None
    assert kept.get("3") is None


def test_a_line_that_was_cut_off_is_computed_again(tmp_path):
    path = fill(tmp_path)
    path.write_text(path.read_text()[:-20])
    kept = KeptAnswers(tmp_path, SETTINGS)
    assert kept.get("1") is not None
    assert kept.get("2") is None
    with kept:
        kept.put("2", Answer(np.ones((2, 2)), None))
    assert KeptAnswers(tmp_path, SETTINGS).get("2") is not None


def test_answers_of_other_settings_are_refused_and_replaced_only_when_asked(tmp_path):
    path = fill(tmp_path)
    before = path.read_text()
    with pytest.raises(UsageError, match=r"another bundle or other settings.*--overwrite"):
        KeptAnswers(tmp_path, {**SETTINGS, "seed": 1})
    assert path.read_text() == before
    assert KeptAnswers(tmp_path, {**SETTINGS, "seed": 1}, overwrite=True).get("0") is None


def test_a_number_that_is_not_finite_is_not_taken(tmp_path):
    path = fill(tmp_path)
    path.write_text(path.read_text().replace("1.25", "NaN"))
    assert KeptAnswers(tmp_path, SETTINGS).get("1") is None


def test_writing_outside_a_block_is_refused(tmp_path):
    with pytest.raises(StorageError, match="closed"):
        KeptAnswers(tmp_path, SETTINGS).put("a", Answer(np.ones((1, 2)), None))
