"""Decisions are compared with explicit formulas."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import special

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import Conformal, IsotonicCurve
from reslink.bundles.decision.decision import Decision, average_logits
from reslink.errors import BundleError, InputError, UsageError
from reslink.files import sha256


def test_a_single_logit_gives_two_columns_of_its_sigmoid():
    logits = np.array([[-800.0], [-1.0], [0.0], [2.0], [800.0]])
    found = Decision().probabilities(logits)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-logits[:, 0])))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.dtype == np.float64


def test_two_logits_that_differ_by_z_equal_a_single_logit_z():
    pair = Decision(temperature=1.7).probabilities([[0.3, 1.5]])
    np.testing.assert_allclose(Decision(temperature=1.7).probabilities([[1.2]]), pair)


def test_softmax_with_a_temperature():
    logits = np.array([[1.0, 2.0, 4.0]])
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    np.testing.assert_allclose(Decision(threshold=None, temperature=2).probabilities(logits), expected)


def test_softmax_is_that_of_scipy_to_the_bit(rng):
    logits = rng.normal(0, 20, (500, 4)) * [[1, 1, 1, 30]]
    np.testing.assert_array_equal(Decision(threshold=None).probabilities(logits), special.softmax(logits, axis=1))


def test_the_threshold_itself_is_positive():
    probabilities = np.array([[0.71, 0.29], [0.7, 0.3], [0.1, 0.9]])
    np.testing.assert_array_equal(Decision(threshold=0.3).predict(probabilities), [0, 1, 1])
    np.testing.assert_array_equal(Decision().predict([[0.5, 0.5]]), [1])


def test_without_a_threshold_the_most_probable_class_is_chosen():
    np.testing.assert_array_equal(Decision(threshold=None).predict([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]]), [1, 0])
    assert Decision.default(4).threshold is None
    assert Decision.default(2).threshold == 0.5


def test_a_threshold_needs_two_classes():
    with pytest.raises(UsageError, match=r"threshold of 0\.5 was given for 3 classes"):
        Decision().predict([[0.2, 0.5, 0.3]])


@pytest.mark.parametrize("logits", [[[np.nan, 1.0]], [[np.inf, 1.0]]])
def test_logits_that_are_not_finite_are_refused(logits):
    with pytest.raises(InputError, match="1 of 1 rows"):
        Decision().probabilities(logits)


def test_logits_have_two_axes():
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        Decision().probabilities([1.0, 2.0])


@pytest.mark.parametrize("fields", [{"threshold": 1.2}, {"threshold": float("nan")}, {"temperature": 0.0}, {"threshhold": 0.4}])
def test_settings_are_strict(fields):
    with pytest.raises(ValidationError):
        Decision(**fields)


def curve(before, after):
    return IsotonicCurve(before=before, after=after)


def test_an_isotonic_curve_of_two_classes():
    rule = Decision(isotonic=(curve((0.2, 0.4, 0.8), (0.0, 0.3, 1.0)),))
    p = np.array([0.1, 0.2, 0.3, 0.6, 0.9])
    found = rule.probabilities(np.log(p / (1 - p))[:, None])
    np.testing.assert_allclose(found[:, 1], [0, 0, 0.15, 0.65, 1])
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_isotonic_curves_of_three_classes_add_up_to_one_and_never_divide_by_zero():
    steep = curve((0.0, 0.5, 1.0), (0.0, 0.0, 1.0))
    rule = Decision(threshold=None, isotonic=(steep, steep, steep))
    p = np.array([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]])
    found = rule.probabilities(np.log(p))
    np.testing.assert_allclose(found, [[1, 0, 0], [0.4, 0.3, 0.3]])


@pytest.mark.parametrize(
    ("before", "after"), [((), ()), ((0.1, 0.2), (0.1,)), ((0.3, 0.2), (0.1, 0.2)), ((0.1, 0.2), (0.2, 0.1)), ((0.1,), (1.5,))]
)
def test_an_invalid_curve_is_refused(before, after):
    with pytest.raises(ValidationError):
        curve(before, after)


def conformal(limits, coverage=0.9):
    return Conformal(coverage=coverage, limits=limits, n_images=100, n_groups=50)


def test_without_fitted_parts_it_never_abstains():
    found = Decision().decide([[0.0, 3.0]])
    assert (found.prediction_sets, found.ood_score, found.abstain, found.reasons) == (None, None, None, [[]])


def test_it_abstains_unless_the_prediction_set_is_the_label_alone():
    logits = np.log([[0.05, 0.95], [0.45, 0.55], [0.7, 0.3]])
    found = Decision(conformal=conformal((0.4, 0.4))).decide(logits)
    np.testing.assert_array_equal(found.prediction_sets, [[False, True], [False, False], [True, False]])
    assert found.reasons == [[], ["the prediction set at 0.9 coverage is empty"], []]
    both = Decision(conformal=conformal((0.6, 0.6))).decide(logits)
    assert both.reasons == [[], ["cannot rule out class 0, class 1 (prediction set at 0.9 coverage)"], []]
    moved = Decision(threshold=0.2, conformal=conformal((0.4, 0.4))).decide(logits, names=("Healthy", "Tumor"))
    assert moved.reasons[2] == ["the prediction set at 0.9 coverage holds Healthy only"]
    np.testing.assert_array_equal(moved.predicted, [1, 1, 1])
    np.testing.assert_array_equal(moved.abstain, [False, True, True])


def test_prediction_sets_use_uncalibrated_probabilities():
    logits = np.random.default_rng(0).normal(size=(50, 3)) * 3
    plain = Decision(threshold=None, conformal=conformal((0.5, 0.5, None))).decide(logits)
    cooled = Decision(threshold=None, temperature=4.0, conformal=conformal((0.5, 0.5, None))).decide(logits)
    np.testing.assert_array_equal(plain.prediction_sets, cooled.prediction_sets)
    assert plain.prediction_sets[:, 2].all(), "a class without a limit is in every set"


@pytest.mark.parametrize(
    "rule",
    [
        Decision(threshold=None, conformal=conformal((0.1, 0.1))),
        Decision(threshold=None, isotonic=(curve((0.0,), (0.0,)),)),
    ],
)
def test_parts_for_another_number_of_classes_are_refused(rule):
    with pytest.raises(BundleError, match="for 3 classes"):
        rule.check_classes(3)


def test_the_json_form_excludes_the_arrays():
    rule = Decision(isotonic=(curve((0.0, 1.0), (0.1, 0.9)),), conformal=conformal((0.2, None)), arrays=DecisionArrays({}))
    text = rule.model_dump_json()
    assert "arrays" not in text
    assert Decision.model_validate_json(text) == rule.model_copy(update={"arrays": None})
    assert Decision.model_validate_json('{"threshold": 0.4, "temperature": 2.0, "threshold_source": "x"}').conformal is None


def test_a_decision_is_stored_beside_the_same_weights_or_not_at_all(saved, tmp_path):
    rule = Decision(temperature=2.0, arrays=DecisionArrays({"images": np.arange(256, dtype=np.uint8).reshape(2, 128)}))
    new = saved.with_decision(rule, tmp_path / "new")
    assert Bundle.load(tmp_path / "new").decision == rule == new.decision
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (saved.folder / "model.safetensors").read_bytes()
    assert Bundle.load(saved.folder).decision == Decision()
    with pytest.raises(BundleError, match="for 2 classes"):
        saved.with_decision(Decision(conformal=conformal((0.1, 0.1, 0.1))))
    assert Bundle.load(saved.folder).decision == Decision()
    back = Bundle.load(tmp_path / "new").with_decision(Decision())
    assert not (back.folder / "decision.safetensors").exists()


def test_arrays_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "decision.safetensors"
    path.write_bytes(DecisionArrays({"features_mean": np.array([1.0, np.nan])}).to_bytes())
    with pytest.raises(BundleError, match="features_mean is not finite"):
        DecisionArrays.read(path, sha256(path))
    path.write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="cannot be used"):
        DecisionArrays.read(path, sha256(path))


@pytest.mark.parametrize("threshold", [0.05, 0.224, 0.5, 0.9])
def test_an_answer_is_decided_where_its_odds_are_four_times_those_of_the_threshold(threshold):
    decision = Decision(threshold=threshold, temperature=1.5)
    at_threshold = threshold / (1 - threshold)
    for p in np.linspace(0.001, 0.999, 500):
        ratio = p / (1 - p) / at_threshold
        if abs(abs(np.log(ratio)) - np.log(4)) > 1e-6:
            expected = "decided" if abs(np.log(ratio)) > np.log(4) else "uncertain"
            assert decision.certainty([1 - p, p], None) == expected
    assert decision.certainty([0.5, 0.5], True) == "no answer"


def test_with_more_classes_the_second_class_decides_whether_an_answer_is_decided():
    decision = Decision(threshold=None, temperature=2.0)
    assert decision.certainty([0.1, 0.75, 0.15], False) == "decided"
    assert decision.certainty([0.1, 0.7, 0.2], False) == "uncertain"


def test_without_calibration_nothing_is_known_and_a_prediction_set_decides():
    assert Decision().certainty([0.001, 0.999], None) == "uncalibrated"
    assert Decision.default(3).certainty([0.001, 0.998, 0.001], None) == "uncalibrated"
    sets = Decision(
        threshold=0.5, conformal=Conformal(coverage=0.9, per_class=False, limits=(0.3, 0.3), n_images=9, n_groups=9)
    )
    assert sets.certainty([0.45, 0.55], False) == "decided"
    assert sets.certainty([0.45, 0.55], True) == "no answer"


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_average_logits_have_the_mean_probabilities(outputs: int) -> None:
    decision = Decision.default(max(2, outputs))
    rng = np.random.default_rng(0)
    logits = [5 * rng.normal(size=(6, outputs)), 200 * rng.normal(size=(6, outputs)), np.zeros((6, outputs))]
    averaged = average_logits(logits)
    assert averaged.shape == (6, outputs)
    expected = np.mean([decision.probabilities(values) for values in logits], axis=0)
    np.testing.assert_allclose(decision.probabilities(averaged), expected, atol=1e-12)
    np.testing.assert_allclose(
        decision.probabilities(average_logits(logits[:1])), decision.probabilities(logits[0]), atol=1e-12
    )
