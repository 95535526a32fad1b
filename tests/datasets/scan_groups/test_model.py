"""The model of pairs that ships with the package."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reslink.datasets.scan_groups.groups import THRESHOLD
from reslink.datasets.scan_groups.model import FILE, PairModel, pair_model


def test_log_odds_are_those_of_the_network_with_one_hidden_layer() -> None:
    model = PairModel(
        np.array([1.0, 0.0]),
        np.array([2.0, 1.0]),
        np.array([[1.0, -1.0], [0.5, 0.0]]),
        np.array([0.0, 0.25]),
        np.array([2.0, 4.0]),
        -1.0,
    )
    np.testing.assert_allclose(model.log_odds(np.array([[3.0, 2.0], [-1.0, 100.0]])), [3.0, 7.0])


def test_blocks_give_the_same_log_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = pair_model(), PairModel._log_odds
    features = np.random.default_rng(0).normal(model.mean, 2 * model.scale, (23, len(model.mean)))
    expected, sizes = whole(model, features), []
    monkeypatch.setattr("reslink.datasets.scan_groups.model.BLOCK", 5)
    monkeypatch.setattr(PairModel, "_log_odds", lambda self, block: (sizes.append(len(block)), whole(self, block))[1])
    np.testing.assert_allclose(model.log_odds(features), expected, rtol=1e-13, atol=1e-13)
    assert sizes == [5, 5, 5, 5, 3]
    assert model.log_odds(features[:0]).shape == (0,)


def test_the_json_form_keeps_four_digits() -> None:
    model = pair_model()
    again = PairModel.from_dict(json.loads(json.dumps(model.as_dict())))
    features = np.random.default_rng(0).normal(model.mean, model.scale, (50, len(model.mean)))
    np.testing.assert_allclose(again.log_odds(features), model.log_odds(features), atol=1e-9)


def test_the_record_of_the_fit_is_kept_beside_the_model() -> None:
    record = json.loads(FILE.read_text(encoding="utf-8"))["record"]
    for name, control in record["controls"].items():
        assert record["cross_validated"][name][str(THRESHOLD)]["precision"] >= 0.95
        assert record["measured"][f"{name} original"][str(THRESHOLD)]["recall"] > control["near duplicates"]["recall"] + 0.5
