"""Simulated intervals and decisions: every metric is there, and too few cases are an error."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from reslink.errors import UsageError
from reslink.evaluation.fitting import CalibrationData
from reslink.inference.outputs import Outputs
from reslink.labels import Labels

LABELS = Labels(("healthy", "tumor"))


def _cases(groups: int, images: int = 2) -> CalibrationData:
    """Groups of some images each; one of the two features tells the classes apart, not without errors."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), images)
    truth = group % 2
    log_odds = rng.normal(2 * truth - 1, 1.0)
    logits, features = np.stack([-log_odds, log_odds], axis=1), np.stack([log_odds, rng.normal(size=len(truth))], axis=1)
    return CalibrationData(logits, features, rng.normal(size=(len(truth), 33)), truth, group.astype(str).tolist())


@pytest.mark.parametrize("grouped", [False, True])
def test_every_metric_of_a_simulation_has_an_interval(interval_coverage: ModuleType, grouped: bool) -> None:
    drawn = interval_coverage.simulate(np.random.default_rng(0), 60, grouped)
    intervals = interval_coverage.intervals_of(drawn, draws=100, seed=0)
    assert set(intervals) >= {
        *interval_coverage.METRICS,
        "difference auroc",
        "aurc",
        "slope",
        "intercept",
        "net benefit at 0.3",
    }
    truth, log_odds, _, _ = drawn
    assert intervals["accuracy"][0] == pytest.approx(((log_odds >= 0) == truth).mean())
    for name, (value, low, high) in intervals.items():
        assert low <= value <= high, name


def test_sets_contain_the_truth_and_unrelated_inputs_are_flagged(decision: ModuleType) -> None:
    cases = _cases(200)
    far = Outputs((cases.logits * 9).astype(np.float32), (cases.features * 9).astype(np.float32), cases.statistics * 9)
    coverage = decision.coverage(cases, LABELS, 4)
    assert 0.9 <= coverage["all"]["coverage"] <= 1
    detector = decision.ood_detector(cases, LABELS, {"far": far}, 2)
    assert detector["not_flagged"]["least"] > 0.85
    assert detector["far"]["n"] == len(cases)
    assert detector["far"]["auroc"] > 0.99
    assert detector["far"]["flagged"] > 0.99


def test_a_half_that_is_too_small_is_an_error(decision: ModuleType) -> None:
    with pytest.raises(UsageError, match="too small: No out-of-distribution detector: there are 30 groups"):
        decision.ood_detector(_cases(60), LABELS, {}, 1)
    with pytest.raises(UsageError, match="too small: No prediction sets: there are 15 images"):
        decision.coverage(_cases(30, images=1), LABELS, 1)


def test_a_folder_without_a_readable_image_is_an_error(decision: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match=r"No image of .* can be read"):
        decision.images_of(tmp_path)
