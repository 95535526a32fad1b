"""The prediction store: resuming after a kill, and other settings."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.errors import StorageError, UsageError
from reslink.experiments.robustness.prediction_store import CasePrediction, PredictionStore

SETTINGS = {"bundle": "a", "seed": 0}


def fill(folder, n=3, settings=SETTINGS, **options):
    with PredictionStore(folder, settings, **options) as store:
        for i in range(n):
            store.put(str(i), CasePrediction(np.full((2, 2), i + 0.25), None if i else np.array([True, False])))
    return folder / "predictions.jsonl"


def test_stored_predictions_are_read_again(tmp_path):
    fill(tmp_path)
    store = PredictionStore(tmp_path, SETTINGS)
    first, last = store.get("0"), store.get("2")
    assert first is not None
    assert last is not None
    assert first.abstained is not None
    assert first.abstained.tolist() == [True, False]
    assert (last.logits == 2.25).all()
    assert last.abstained is None
    assert store.get("3") is None


def test_an_incomplete_line_is_ignored(tmp_path):
    path = fill(tmp_path)
    path.write_text(path.read_text()[:-20])
    store = PredictionStore(tmp_path, SETTINGS)
    assert store.get("1") is not None
    assert store.get("2") is None
    with store:
        store.put("2", CasePrediction(np.ones((2, 2)), None))
    assert PredictionStore(tmp_path, SETTINGS).get("2") is not None


def test_predictions_of_other_settings_are_replaced_only_with_overwrite(tmp_path):
    path = fill(tmp_path)
    before = path.read_text()
    with pytest.raises(UsageError, match=r"another bundle or other settings.*--overwrite"):
        PredictionStore(tmp_path, {**SETTINGS, "seed": 1})
    assert path.read_text() == before
    assert PredictionStore(tmp_path, {**SETTINGS, "seed": 1}, overwrite=True).get("0") is None


def test_a_non_finite_number_is_ignored(tmp_path):
    path = fill(tmp_path)
    path.write_text(path.read_text().replace("1.25", "NaN"))
    assert PredictionStore(tmp_path, SETTINGS).get("1") is None


def test_writing_outside_a_with_block_raises(tmp_path):
    with pytest.raises(StorageError, match="closed"):
        PredictionStore(tmp_path, SETTINGS).put("a", CasePrediction(np.ones((1, 2)), None))
