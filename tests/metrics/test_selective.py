"""The risk–coverage curve against its definition."""

import numpy as np
import pytest

from reslink.errors import InputError
from reslink.metrics.selective import area_under_risk_coverage, aurc_estimate, risk_coverage_curve, selective_summary


def test_a_curve_worked_by_hand():
    curve = risk_coverage_curve([0, 1, 0, 1], [0.9, 0.8, 0.8, 0.1])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.75, 1.0])
    np.testing.assert_allclose(curve.risk, [0, 1 / 3, 1 / 2])
    np.testing.assert_allclose(curve.threshold, [0.9, 0.8, 0.1])
    assert (curve.at(0.2), curve.at(0.5), curve.at(0.75), curve.at(1.0)) == (0, 1 / 3, 1 / 3, 1 / 2)


def test_the_area_is_the_mean_risk_of_the_k_surest(rng):
    wrong, confidence = rng.random(80) < 0.3, rng.random(80)
    ranked = wrong[np.argsort(-confidence)]
    assert area_under_risk_coverage(wrong, confidence) == pytest.approx(np.mean(np.cumsum(ranked) / np.arange(1, 81)))


def test_ties_count_as_the_mean_over_all_orders(rng):
    wrong, confidence = rng.random(40) < 0.3, np.round(rng.random(40), 1)
    areas = []
    for _ in range(4000):
        ranked = wrong[np.lexsort((rng.random(40), -confidence))]
        areas.append(np.mean(np.cumsum(ranked) / np.arange(1, 41)))
    error = np.std(areas) / np.sqrt(len(areas))
    assert area_under_risk_coverage(wrong, confidence) == pytest.approx(np.mean(areas), abs=4 * error)
    assert area_under_risk_coverage(wrong, np.zeros(40)) == pytest.approx(wrong.mean())


def test_a_group_drawn_twice_is_as_two_copies(rng):
    wrong, confidence = rng.random(30) < 0.4, rng.random(30)
    twice = area_under_risk_coverage(np.r_[wrong, wrong], np.r_[confidence, confidence])
    result = aurc_estimate(np.r_[wrong, wrong], np.r_[confidence, confidence], [str(i % 30) for i in range(60)])
    assert result.estimate == pytest.approx(twice)
    assert result.ci_low < twice < result.ci_high


def test_a_good_order_beats_a_bad_one(rng):
    wrong = rng.random(200) < 0.2
    assert area_under_risk_coverage(wrong, -wrong.astype(float)) < 0.03 < area_under_risk_coverage(wrong, wrong)


def test_the_json_form_ends_with_all_cases(rng):
    wrong = rng.random(500) < 0.2
    result = selective_summary(wrong, rng.random(500), [str(i) for i in range(500)], draws=50)
    assert len(result["curve"]) == 101
    assert result["curve"][-1]["coverage"] == 1.0
    assert result["curve"][-1]["risk"] == pytest.approx(wrong.mean())


def test_few_groups_and_no_error_give_no_interval(rng):
    assert aurc_estimate([0, 1] * 10, rng.random(20), ["a", "b"] * 10).method.startswith("no interval: only 2 groups")
    assert aurc_estimate([0] * 20, rng.random(20), [str(i) for i in range(20)]).ci_low is None


@pytest.mark.parametrize(("wrong", "confidence"), [([], []), ([0, 1], [0.5]), ([0, 1], [0.5, np.nan])])
def test_what_cannot_be_ranked_is_refused(wrong, confidence):
    with pytest.raises(InputError, match="No risk–coverage curve"):
        risk_coverage_curve(wrong, confidence)
