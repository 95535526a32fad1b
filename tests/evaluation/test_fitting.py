"""Fitting a decision: against scikit-learn, a grid, and what is planted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

from reslink.bundles.decision.decision import Decision
from reslink.bundles.scope import LITTLE_BRAIN, Scope
from reslink.errors import UsageError
from reslink.evaluation.fitting import (
    CalibrationData,
    DecisionOptions,
    fit_decision,
    fit_isotonic,
    fit_ood_detector,
    fit_temperature,
    group_folds,
)
from reslink.imaging.image import Stated
from reslink.labels import Labels
from reslink.metrics.conformal import is_covered
from reslink.metrics.operating_point import OperatingPoint

TWO = Labels(("Healthy", "Tumor"))
THREE = Labels(("a", "b", "c"))


def calibration_data(rng, n=600, classes=2, heat=2.5, groups=None):
    """Cases whose labels follow the softmax of the logits; what is given are these logits times ``heat``."""
    true = rng.normal(size=(n, classes)) * 1.5
    probabilities = softmax(true, axis=1)
    labels = (probabilities.cumsum(axis=1)[:, :-1] < rng.random((n, 1))).sum(axis=1)
    names = [str(i) for i in (rng.integers(0, groups, n) if groups else np.arange(n))]
    return CalibrationData(true * heat, rng.normal(size=(n, 8)), rng.normal(size=(n, 33)), labels, names)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_planted_temperature_is_found(rng, classes, heat):
    cases = calibration_data(rng, 6000, classes, heat)
    found = fit_temperature(cases.logits, cases.y_true)
    assert found == pytest.approx(heat, rel=0.1)

    def loss(temperature):
        return -log_softmax(cases.logits / temperature, axis=1)[np.arange(6000), cases.y_true].mean()

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.06, 40, 80)) + 1e-9


def test_a_single_logit_has_the_temperature_of_two(rng):
    cases = calibration_data(rng)
    single = (cases.logits[:, 1] - cases.logits[:, 0])[:, None]
    assert fit_temperature(single, cases.y_true) == pytest.approx(fit_temperature(cases.logits, cases.y_true), rel=1e-4)


def test_a_network_no_better_than_chance_is_reported(rng):
    cases = calibration_data(rng)
    upside_down = CalibrationData(-cases.logits, cases.features, cases.statistics, cases.y_true, cases.groups)
    found, notes = fit_decision(upside_down, DecisionOptions(coverage=None, ood=False), TWO)
    assert found.temperature == pytest.approx(50, rel=0.01)
    assert any("at its limit of 50: the network is hardly better than chance on these images" in note for note in notes)


def test_a_network_that_is_always_correct_has_no_temperature(rng):
    cases = calibration_data(rng)
    sure = CalibrationData(np.eye(2)[cases.y_true] * 3, cases.features, cases.statistics, cases.y_true, cases.groups)
    found, notes = fit_decision(sure, DecisionOptions(coverage=None, ood=False), TWO)
    assert found.temperature == 1
    assert notes == ["No temperature: the network is correct on all 600 images, so the best temperature would be 0"]


def test_the_curve_of_two_classes_matches_scikit_learn(rng):
    cases, new = calibration_data(rng), rng.normal(size=(500, 2)) * 4
    before, after = softmax(cases.logits, axis=1)[:, 1], softmax(new, axis=1)[:, 1]
    expected = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(before, cases.y_true).predict(after)
    found = Decision(isotonic=fit_isotonic(cases.logits, cases.y_true)).probabilities(new)
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-12)


def test_the_curves_of_three_classes_match_scikit_learn(rng):
    cases, new = calibration_data(rng, 900, 3), rng.normal(size=(200, 3)) * 4
    found = Decision(threshold=None, isotonic=fit_isotonic(cases.logits, cases.y_true)).probabilities(new)
    probabilities = softmax(cases.logits, axis=1), softmax(new, axis=1)
    columns = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(probabilities[0][:, k], cases.y_true == k)
        .predict(probabilities[1][:, k])
        for k in range(3)
    ]
    total = np.sum(columns, axis=0)
    expected = np.where((total > 0)[:, None], np.stack(columns, 1) / np.where(total > 0, total, 1)[:, None], probabilities[1])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_decision_has_the_requested_components(rng):
    cases = calibration_data(rng, 400, groups=150)
    options = DecisionOptions(operating_point=OperatingPoint.parse("sensitivity=0.9"), coverage=0.9, per_class=True)
    found, notes = fit_decision(cases, options, TWO)
    assert notes == []
    assert found.temperature == pytest.approx(2.5, rel=0.3)
    predicted = found.predict(found.probabilities(cases.logits))
    assert predicted[cases.y_true == 1].mean() >= 0.9
    assert found.threshold_source == "sensitivity of at least 0.9 on 400 calibration images"
    assert (found.conformal.coverage, found.conformal.per_class, found.conformal.n_groups) == (0.9, True, cases.n_groups)
    assert found.ood.n_images == 400
    bare, _ = fit_decision(cases, DecisionOptions(coverage=None, ood=False, method="isotonic"), TWO)
    assert (bare.conformal, bare.ood, bare.temperature, len(bare.isotonic)) == (None, None, 1.0, 1)
    assert (bare.threshold, bare.threshold_source) == (0.5, "default")


def test_three_classes_have_no_operating_point(rng):
    cases = calibration_data(rng, 300, 3)
    found, _ = fit_decision(cases, DecisionOptions(), THREE)
    assert found.threshold is None
    with pytest.raises(UsageError, match=r"Youden index was requested for 3 classes"):
        fit_decision(cases, DecisionOptions(operating_point=OperatingPoint.parse("youden")), THREE)


def test_too_little_data_is_refused_or_noted(rng):
    few = calibration_data(rng, 200, groups=9)
    with pytest.raises(UsageError, match=r"has 9 groups.*10 groups"):
        fit_decision(few, DecisionOptions(), TWO)
    cases = calibration_data(rng, 300)
    healthy = cases.take(np.flatnonzero(cases.y_true == 0))
    with pytest.raises(UsageError, match="has no case of 'Tumor'"):
        fit_decision(healthy, DecisionOptions(), TWO)
    found, notes = fit_decision(cases.take(np.arange(30)), DecisionOptions(coverage=0.99, method="isotonic"), TWO)
    assert (found.conformal, found.ood) == (None, None)
    assert notes == [
        "The isotonic curve uses 30 images; below 1,000 a temperature is usually better",
        "No prediction sets: there are 30 images; a coverage of 0.99 needs 99",
        "No out-of-distribution detector: there are 30 groups; it needs 40",
    ]


def test_a_class_too_small_for_its_own_limit_is_in_every_prediction_set(rng):
    cases = calibration_data(rng, 400)
    rows = np.concatenate([np.flatnonzero(cases.y_true == 0)[:100], np.flatnonzero(cases.y_true == 1)[:18]])
    found, notes = fit_decision(cases.take(rows), DecisionOptions(per_class=True, ood=False), TWO)
    assert notes == ["'Tumor' is in every prediction set: a coverage of 0.95 needs 19 images of the class"]
    assert found.conformal.limits[1] is None
    assert found.decide(cases.logits).prediction_sets[:, 1].all()


def test_classes_too_small_for_folds_only_prevent_the_ood_detector(rng):
    def draw(classes):
        labels = np.repeat(np.arange(classes), 4)
        n = len(labels)
        logits = rng.normal(size=(n, classes))
        return CalibrationData(logits, rng.normal(size=(n, 8)), rng.normal(size=(n, 33)), labels, [str(i) for i in range(n)])

    with pytest.raises(UsageError, match=r"split into 5 folds: no class has more than 4 images"):
        list(group_folds(draw(4)))
    found, notes = fit_decision(draw(12), DecisionOptions(), Labels(tuple("abcdefghijkl")))
    assert found.ood is None
    assert "No out-of-distribution detector: The cases cannot be split into 5 folds: no class has more than 4 images" in notes


def test_a_small_class_beside_a_large_one_is_allowed(rng):
    cases = calibration_data(rng, 100)
    rare = np.concatenate([np.flatnonzero(cases.y_true == 0), np.flatnonzero(cases.y_true == 1)[:3]])
    assert len(list(group_folds(cases.take(rare)))) == 5


@pytest.mark.parametrize("coverage", [0.4, 1.0, 95, float("nan")])
def test_an_invalid_coverage_is_refused(coverage):
    with pytest.raises(UsageError, match="The coverage is"):
        DecisionOptions(coverage=coverage)


@pytest.mark.parametrize("n_groups", [60, None])
def test_the_ood_detector_retains_new_cases_of_the_same_kind(rng, n_groups):
    """Groups differ from each other, so a detector fitted to a group knows it; new cases come from new groups."""

    def draw(n):
        names = rng.integers(0, n_groups, n) if n_groups else np.arange(n)
        offset = rng.normal(size=(n, 8))[names]
        labels = rng.integers(0, 2, n)
        features = offset + 0.3 * rng.normal(size=(n, 8))
        return CalibrationData(np.zeros((n, 2)), features, rng.normal(size=(n, 33)), labels, [str(name) for name in names])

    kept = []
    for _ in range(4):
        cases, new = draw(600), draw(600)
        detector, arrays = fit_ood_detector(cases, [])
        ratios = detector.relative_distances(arrays.by_name, new.features, new.statistics)
        kept.append((np.max(list(ratios.values()), axis=0) <= 1).mean())
        far = detector.relative_distances(arrays.by_name, new.features + 20, new.statistics)
        assert (far["features"] > 1).all()
        np.testing.assert_allclose(far["statistics"], ratios["statistics"])
    assert 0.95 < np.mean(kept) < 0.995


@pytest.mark.parametrize("n_refused", [0, 8, 14, 40])
def test_images_that_the_modality_detector_refuses_are_part_of_the_share_that_is_declined(rng, n_refused):
    """Refused and flagged images together are 2.5 % of all, but at least 1 % of the others are flagged."""
    flagged = []
    for _ in range(4):
        drawn, new = calibration_data(rng, 1000 - n_refused), calibration_data(rng, 2000)
        cases = replace(drawn, n_refused=n_refused)
        detector, arrays = fit_ood_detector(cases, [], ("statistics",))
        assert detector.retained == pytest.approx(min(0.99, 1 - (25 - n_refused) / len(cases)), abs=1e-4)
        ratios = detector.relative_distances(arrays.by_name, new.features, new.statistics)
        flagged.append((ratios["statistics"] > 1).mean())
    assert np.mean(flagged) == pytest.approx(max((25 - n_refused) / (1000 - n_refused), 0.01), rel=0.35)
    half = cases.take(np.arange(len(cases) // 2))
    assert abs(half.n_refused - n_refused / 2) <= 0.5


def test_constant_features_leave_a_detector_of_the_input_statistics(rng):
    cases = calibration_data(rng, 300)
    dead = CalibrationData(cases.logits, np.zeros((300, 8)), cases.statistics, cases.y_true, cases.groups)
    detector, arrays = fit_ood_detector(dead, [])
    ratios = detector.relative_distances(arrays.by_name, dead.features, dead.statistics)
    assert (ratios["features"] == 0).all()
    assert 0.95 < (ratios["statistics"] <= 1).mean() < 1


def test_no_group_stands_on_two_sides_of_a_fold(rng):
    cases = calibration_data(rng, 300, groups=60)
    seen = []
    for inner, outer in group_folds(cases):
        assert not {cases.groups[i] for i in inner} & {cases.groups[i] for i in outer}
        seen += outer.tolist()
    assert sorted(seen) == list(range(300))


def two_sources(rng, n=2000):
    """Cases of two sources, of which B, one tenth, has noisier labels."""
    cases = calibration_data(rng, n)
    is_b = np.arange(n) % 10 == 0
    wrong = is_b & (rng.random(n) < 0.3)
    return replace(cases, y_true=np.where(wrong, 1 - cases.y_true, cases.y_true), sources=np.where(is_b, "B", "A").tolist())


def test_prediction_sets_cover_within_each_source(rng):
    cases, new = two_sources(rng), two_sources(np.random.default_rng(7))
    in_b = np.array(new.sources) == "B"
    coverage = {}
    for per_source in (False, True):
        options = DecisionOptions(coverage=0.9, ood=False, per_source=per_source)
        found, notes = fit_decision(cases, options, TWO)
        assert notes == []
        coverage[per_source] = is_covered(found.decide(new.logits).prediction_sets, new.y_true)[in_b].mean()
        assert found.conformal.sources == (("A", "B") if per_source else ())
    assert coverage[False] < 0.8  # the many cases of A hide those of B
    assert coverage[True] >= 0.87


def test_sources_have_equal_weight_in_the_temperature(rng):
    cases = two_sources(rng)
    rows = {name: np.flatnonzero(np.array(cases.sources) == name) for name in "AB"}
    equal = np.concatenate([np.tile(rows["B"], 9), rows["A"]])  # B nine times, as many as A
    expected = fit_temperature(cases.logits[equal], cases.y_true[equal])
    found, _ = fit_decision(cases, DecisionOptions(coverage=None, ood=False, per_source=True), TWO)
    pooled, _ = fit_decision(cases, DecisionOptions(coverage=None, ood=False), TWO)
    assert found.temperature == pytest.approx(expected, rel=1e-3)
    assert found.temperature > 1.2 * pooled.temperature


def test_a_source_with_few_images_is_named_and_sets_no_limit(rng):
    cases = two_sources(rng, 180)
    found, notes = fit_decision(cases, DecisionOptions(ood=False, per_source=True), TWO)
    assert notes == ["The coverage of prediction sets is not held within sources of fewer than 19 images: B (18)"]
    assert found.conformal.sources == ("A",)


def test_the_detector_flags_slices_with_little_brain_instead_of_learning_them(rng):
    cases = calibration_data(rng, 400)
    empty = np.arange(400) % 4 == 0
    cases = replace(cases, features=cases.features + 3.0 * empty[:, None])
    refusals = [f"{LITTLE_BRAIN}: 3 % of the head" if one else None for one in empty]
    left_out = cases.without_refused(Scope(modality="CT"), [Stated("CT")] * 400, refusals)
    assert (len(left_out), left_out.n_refused) == (300, 0)
    flagged = {}
    for name, some in {"learned": cases, "left out": left_out}.items():
        detector, arrays = fit_ood_detector(some, [])
        distances = detector.relative_distances(arrays.by_name, cases.features[empty], cases.statistics[empty])
        flagged[name] = (np.max(list(distances.values()), axis=0) > 1).mean()
    assert flagged["learned"] < 0.1
    assert flagged["left out"] > 0.9


def test_refused_images_are_left_out_and_only_those_refused_by_their_look_count_as_declined(rng):
    cases = calibration_data(rng, 6)
    stated = [Stated("CT"), Stated("MR"), *[Stated()] * 4]
    refusals = [f"{LITTLE_BRAIN}: 3 %", "the file is MR", "it looks like MR", "it looks like MR", None, None]
    kept = cases.without_refused(Scope(modality="CT"), stated, refusals)
    assert (len(kept), kept.n_refused, kept.groups) == (2, 2, list(cases.groups[4:]))
    assert (kept.logits == cases.logits[4:]).all()


def test_a_source_without_a_class_sets_no_limit_for_it(rng):
    cases = two_sources(rng, 800)
    one_class = np.flatnonzero((np.array(cases.sources) == "A") | (cases.y_true == 1))
    options = DecisionOptions(ood=False, per_source=True, per_class=True)
    found, notes = fit_decision(cases.take(one_class), options, TWO)
    of_a, _ = fit_decision(cases.take(np.flatnonzero(np.array(cases.sources) == "A")), replace(options, per_source=False), TWO)
    assert notes == ["The coverage of prediction sets is not held where a source has too few images of a class: 'Healthy' in B"]
    assert found.conformal.limits[0] == of_a.conformal.limits[0]
    assert found.conformal.limits[1] >= of_a.conformal.limits[1]
