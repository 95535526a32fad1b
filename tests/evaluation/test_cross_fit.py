"""What is measured on groups that were left out of the fit: intervals, and a plain word where there is none."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from reslink.bundles.decision.decision import Decision
from reslink.evaluation.cross_fit import held_out
from reslink.evaluation.fitting import Evidence, Wishes, fit
from reslink.labels import Labels
from reslink.metrics.calibration import brier_score, expected_calibration_error

TWO = Labels(("Healthy", "Tumor"))


def evidence(rng, n, groups=None):
    """Cases whose labels follow the softmax of half the logits."""
    true = rng.normal(size=(n, 2)) * 1.5
    labels = (rng.random(n) < softmax(true, axis=1)[:, 1]).astype(int)
    names = [str(i) for i in (np.arange(n) % groups if groups else np.arange(n))]
    return Evidence(true * 2, rng.normal(size=(n, 8)), rng.normal(size=(n, 33)), labels, names)


def checked(cases, wishes=None):
    wishes = wishes or Wishes()
    whole, notes = fit(cases, wishes, TWO)
    found = held_out(cases, wishes, Decision(), whole, TWO)
    json.dumps(found, allow_nan=False)
    return whole, found, notes


def figures(found):
    sets = found["sets"]
    yield from (found[name] for name in ("accuracy", "sensitivity", "specificity", "retained", "answered"))
    yield from (found[name][when] for name in ("brier", "ece") for when in ("before", "after"))
    yield from (sets["coverage"], sets["mean_size"], *sets["coverage_by_class"].values())


def test_every_figure_has_an_interval(rng):
    cases = evidence(rng, 200, 100)
    _, found, _ = checked(cases, Wishes(coverage=0.9))
    for figure in figures(found):
        assert figure["ci_low"] <= figure["estimate"] <= figure["ci_high"], figure
        assert figure["ci_low"] < figure["ci_high"]
    before = softmax(cases.logits, axis=1)
    assert found["brier"]["before"]["estimate"] == pytest.approx(brier_score(cases.y_true, before))
    assert found["ece"]["before"]["estimate"] == pytest.approx(expected_calibration_error(cases.y_true, before))
    assert found["ece"]["after"]["estimate"] < found["ece"]["before"]["estimate"]
    assert "over 100 groups" in found["brier"]["after"]["method"]
    assert set(found["sets"]["coverage_by_class"]) == {"Healthy", "Tumor"}
    assert (found["reason"], found["notes"]) == (None, [])


def test_few_groups_have_no_interval_and_it_says_why(rng):
    """Groups of both classes are many enough to fit on, those with a positive case too few for an interval."""
    cases = evidence(rng, 60, 30)
    rare = np.array([int(name) < 8 for name in cases.groups])
    few = Evidence(cases.logits, cases.features, cases.statistics, rare.astype(int), cases.groups)
    _, found, _ = checked(few, Wishes(coverage=0.5, ood=False))
    assert found["sensitivity"]["method"].startswith("no interval: it rests on 8 groups")
    assert found["sets"]["coverage_by_class"]["Tumor"]["method"].startswith("no interval: it rests on 8 groups")
    assert found["accuracy"]["ci_low"] is not None


@pytest.mark.parametrize("n_groups", [40, 45, 49])
def test_a_gate_that_four_fifths_have_not_takes_its_figures_with_it(rng, n_groups):
    whole, found, notes = checked(evidence(rng, 2 * n_groups, n_groups), Wishes(coverage=0.9))
    assert whole.ood is not None
    assert notes == []
    assert (found["retained"], found["answered"]) == (None, None)
    assert found["sets"]["coverage"]["ci_low"] is not None, "the sets are those of the whole"
    (note,) = found["notes"]
    assert note.startswith("Nothing is known of the share that the gate keeps and of the share answered on held-out groups")
    assert "No out-of-distribution gate: 3" in note
    assert "groups; it takes 40 or more" in note


def test_sets_that_four_fifths_have_not(rng):
    whole, found, _ = checked(evidence(rng, 20), Wishes(ood=False))
    assert whole.conformal is not None
    assert (found["sets"], found["answered"], found["retained"]) == (None, None, None)
    assert "No prediction sets: 16 images; a coverage of 0.95 takes 19 or more" in found["notes"][0]


def test_a_class_that_is_in_every_set_of_four_fifths_alone(rng):
    cases = evidence(rng, 400)
    rows = np.concatenate([np.flatnonzero(cases.y_true == 0)[:100], np.flatnonzero(cases.y_true == 1)[:20]])
    whole, found, _ = checked(cases.take(rows), Wishes(per_class=True, ood=False))
    assert None not in whole.conformal.limits
    assert (found["sets"], found["answered"]) == (None, None)
    assert "'Tumor' is in every set" in found["notes"][0]


def test_nothing_that_abstains_gives_no_share_and_no_note(rng):
    _, found, _ = checked(evidence(rng, 100), Wishes(coverage=None, ood=False))
    assert (found["sets"], found["retained"], found["answered"], found["notes"]) == (None, None, None, [])
