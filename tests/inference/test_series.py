"""Aggregation of a series: the rule, the interval and the abstention."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.bundles.decision.decision import Decision
from reslink.bundles.scope import LITTLE_BRAIN
from reslink.errors import InputError, UsageError
from reslink.inference.prediction import Prediction
from reslink.inference.series import INTERVAL_SCOPE, aggregate_slices, pooled_series


def predictions(rows, names=("Healthy", "Tumor"), **more):
    return [
        Prediction("s", i, names[int(np.argmax(row))], max(row), dict(zip(names, row, strict=True)), **more)
        for i, row in enumerate(rows)
    ]


def binary(values, **more):
    return predictions([(1 - v, v) for v in values], **more)


def test_the_score_is_the_mean_of_the_three_highest():
    values = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.05]
    series = aggregate_slices(binary(values), Decision())
    assert series.score == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert (series.label, series.score_class, series.used, series.slices) == ("Tumor", "Tumor", (1, 3, 5), 7)
    assert "3 of 7 slices with the highest probability of Tumor" in series.rule
    assert sum(series.probabilities.values()) == pytest.approx(1)


def test_the_order_of_the_slices_does_not_change_the_score():
    values = np.random.default_rng(0).random(20)
    one, other = (aggregate_slices(binary(some), Decision()) for some in (values, values[::-1]))
    assert one.score == pytest.approx(other.score)


def test_the_threshold_is_that_of_the_bundle():
    assert aggregate_slices(binary([0.6] * 5), Decision(threshold=0.7)).label == "Healthy"
    assert aggregate_slices(binary([0.6] * 5), Decision(threshold=0.55)).label == "Tumor"


def test_with_more_classes_the_least_normal_slices_are_averaged():
    names = ("glioma", "meningioma", "no_tumor", "pituitary")
    rows = [(0.02, 0.02, 0.94, 0.02)] * 12 + [(0.9, 0.05, 0.03, 0.02)] * 3
    series = aggregate_slices(predictions(rows, names), Decision.default(4))
    assert (series.label, series.score_class, series.used) == ("glioma", "glioma", (12, 13, 14))
    assert series.score == pytest.approx(0.9)


def test_without_a_normal_class_all_slices_are_averaged():
    rows = [(0.7, 0.2, 0.1), (0.1, 0.2, 0.7), (0.7, 0.2, 0.1)]
    series = aggregate_slices(predictions(rows, ("a", "b", "c")), Decision.default(3))
    assert series.score == pytest.approx(0.5)
    assert "over all 3 slices" in series.rule


def test_the_interval_contains_the_score_and_never_exceeds_the_highest_slice(rng):
    for n in (10, 25, 40):
        values = rng.random(n)
        series = aggregate_slices(binary(values), Decision())
        assert series.ci_low <= series.score <= series.ci_high <= values.max() + 1e-12
        assert "blocks of neighboring slices" in series.interval
    assert "does not cover errors of the model" in INTERVAL_SCOPE


def test_the_interval_is_that_of_a_plain_bootstrap(rng):
    """An oracle: percentiles of the mean of the three highest of slices drawn one by one."""
    values = rng.random(12)
    series = aggregate_slices(binary(values), Decision(), draws=4000)
    drawn = [np.sort(rng.choice(values, 12))[-3:].mean() for _ in range(4000)]
    assert series.ci_low == pytest.approx(np.quantile(drawn, 0.025), abs=0.12)
    assert series.ci_low < np.quantile(drawn, 0.3)


def test_few_slices_have_no_interval():
    series = aggregate_slices(binary([0.2] * 9), Decision())
    assert (series.ci_low, series.ci_high) == (None, None)
    assert "fewer than 10" in series.interval


def test_it_abstains_if_an_averaged_slice_is_abstained_from():
    some = binary([0.1] * 9, abstain=False, reasons=()) + binary([0.9], abstain=True, reasons=("far from the data",))
    series = aggregate_slices(some, Decision())
    assert series.abstain is True
    assert series.reasons == ("1 of the 3 averaged slices: far from the data",)


def test_it_abstains_if_most_slices_are_abstained_from():
    some = binary([0.9] * 4, abstain=False, reasons=()) + binary([0.1] * 6, abstain=True, reasons=("odd",))
    series = aggregate_slices(some, Decision())
    assert series.abstain is True
    assert series.reasons == ("the model abstains from 6 of 10 slices",)


def little_brain(count):
    return [Prediction("s", abstain=True, reasons=(f"{LITTLE_BRAIN}: {i} % of the head",)) for i in range(count)]


def test_slices_that_show_little_brain_are_left_out_and_counted():
    brain = binary([0.1, 0.9, 0.8, 0.7], abstain=False, reasons=())
    series = aggregate_slices([*little_brain(4), *brain, *little_brain(3)], Decision())
    assert (series.abstain, series.reasons, series.used, series.slices) == (False, (), (5, 6, 7), 4)
    assert series.score == aggregate_slices(brain, Decision()).score
    assert series.rule.endswith("; 7 slices left out: it shows little brain")
    other = [Prediction("s", abstain=True, reasons=("the file is MR",))] * 7
    assert aggregate_slices([*other, *brain], Decision()).reasons == ("the model abstains from 7 of 11 slices",)


@pytest.mark.parametrize(("brain", "empty", "needed"), [(1, 39, 10), (9, 31, 10), (2, 1, 3), (2, 3, 3)])
@pytest.mark.parametrize("abstain", [False, None])
def test_a_series_with_too_few_slices_that_show_enough_brain_is_abstained_from(brain, empty, needed, abstain):
    series = aggregate_slices([*little_brain(empty), *binary([0.1] * brain, abstain=abstain)], Decision())
    shows = "shows" if brain == 1 else "show"
    assert series.abstain is True
    assert series.reasons == (f"only {brain} of {brain + empty} slices {shows} enough brain; a series needs {needed}",)


def test_a_series_with_slices_of_base_and_vertex_is_answered():
    for brain, empty in [(10, 30), (3, 9), (28, 12)]:
        series = aggregate_slices([*little_brain(empty), *binary([0.1] * brain, abstain=False, reasons=())], Decision())
        assert (series.label, series.abstain, series.reasons) == ("Healthy", False, ())
    assert aggregate_slices(binary([0.1], abstain=False, reasons=()), Decision()).abstain is False


def test_a_series_in_which_no_slice_shows_enough_brain_has_no_answer():
    with pytest.raises(InputError, match="No slice of the series could be evaluated: it shows little brain: 0 % of the head"):
        aggregate_slices(little_brain(3), Decision())


def test_abstention_is_none_without_prediction_sets_and_detector():
    assert aggregate_slices(binary([0.4] * 3), Decision()).abstain is None


def test_slices_with_an_error_are_skipped():
    some = [Prediction("s", 0, error="broken"), *binary([0.9, 0.1])]
    series = aggregate_slices(some, Decision())
    assert (series.slices, series.used) == (2, (1, 2))


def test_no_usable_slice_is_an_error():
    with pytest.raises(InputError, match="No slice of the series could be evaluated"):
        aggregate_slices([Prediction("s", 0, error="broken")], Decision())
    with pytest.raises(UsageError, match="top is 0"):
        aggregate_slices(binary([0.5]), Decision(), top=0)


def test_only_selected_slices_count_and_keep_their_positions():
    values = [0.99, 0.1, 0.2, 0.3, 0.4, 0.98]
    series = aggregate_slices(binary(values), Decision(), selected=[1, 2, 3, 4])
    assert (series.slices, series.used) == (4, (4, 3, 2))
    assert series.score == pytest.approx(0.3)


def test_positions_are_those_of_the_whole_series():
    pooled = pooled_series(Prediction("", label="b", probabilities={"a": 0.2, "b": 0.8}), {0: 0.3, 1: 0.7})
    moved = pooled.at([4, 6])
    assert (moved.used, moved.attention, moved.score) == ((6, 4), {4: 0.3, 6: 0.7}, 0.8)
    assert aggregate_slices(binary([0.9, 0.1]), Decision(), top=1).at([2, 3]).used == (2,)
