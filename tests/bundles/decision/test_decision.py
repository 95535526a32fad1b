"""Decisions against formulas written out."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import Conformal, IsotonicCurve
from reslink.bundles.decision.decision import Decision
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
def test_a_curve_that_is_none(before, after):
    with pytest.raises(ValidationError):
        curve(before, after)


def sets(limits, coverage=0.9):
    return Conformal(coverage=coverage, limits=limits, n_images=100, n_groups=50)


def test_nothing_fitted_abstains_from_nothing():
    found = Decision().judge([[0.0, 3.0]])
    assert (found.sets, found.ood_score, found.abstain, found.reasons) == (None, None, None, [[]])


def test_it_abstains_unless_the_set_is_the_label_alone():
    logits = np.log([[0.05, 0.95], [0.45, 0.55], [0.7, 0.3]])
    found = Decision(conformal=sets((0.4, 0.4))).judge(logits)
    np.testing.assert_array_equal(found.sets, [[False, True], [False, False], [True, False]])
    assert found.reasons == [[], ["no class is sure enough for the set at 0.9 coverage"], []]
    both = Decision(conformal=sets((0.6, 0.6))).judge(logits)
    assert both.reasons == [[], ["the set at 0.9 coverage holds 2 classes"], []]
    moved = Decision(threshold=0.2, conformal=sets((0.4, 0.4))).judge(logits)
    assert moved.reasons[2] == ["the set at 0.9 coverage does not hold the label"]
    np.testing.assert_array_equal(moved.predicted, [1, 1, 1])
    np.testing.assert_array_equal(moved.abstain, [False, True, True])


def test_sets_rest_on_the_probabilities_before_calibration():
    logits = np.random.default_rng(0).normal(size=(50, 3)) * 3
    plain = Decision(threshold=None, conformal=sets((0.5, 0.5, None))).judge(logits)
    cooled = Decision(threshold=None, temperature=4.0, conformal=sets((0.5, 0.5, None))).judge(logits)
    np.testing.assert_array_equal(plain.sets, cooled.sets)
    assert plain.sets[:, 2].all(), "a class without a limit is in every set"


@pytest.mark.parametrize(
    "rule",
    [
        Decision(threshold=None, conformal=sets((0.1, 0.1))),
        Decision(threshold=None, isotonic=(curve((0.0,), (0.0,)),)),
    ],
)
def test_parts_for_another_number_of_classes(rule):
    with pytest.raises(BundleError, match="for 3 classes"):
        rule.check_classes(3)


def test_the_json_form_comes_back_without_the_arrays():
    rule = Decision(isotonic=(curve((0.0, 1.0), (0.1, 0.9)),), conformal=sets((0.2, None)), arrays=DecisionArrays({}))
    text = rule.model_dump_json()
    assert "arrays" not in text
    assert Decision.model_validate_json(text) == rule.model_copy(update={"arrays": None})
    assert Decision.model_validate_json('{"threshold": 0.4, "temperature": 2.0, "threshold_source": "x"}').conformal is None


def test_a_bundle_of_schema_version_1_has_a_decision_without_the_new_parts(saved):
    path = saved.folder / "bundle.json"
    record = json.loads(path.read_text())
    record["schema_version"] = 1
    record["decision"] = {"threshold": 0.4, "temperature": 1.5, "threshold_source": "Youden"}
    for name in ("fingerprints", "decision_arrays"):
        record.pop(name, None)
    path.write_text(json.dumps(record))
    found = Bundle.load(saved.folder)
    assert found.decision == Decision(threshold=0.4, temperature=1.5, threshold_source="Youden")
    assert not found.decision.abstains


def test_a_decision_is_stored_beside_the_same_weights_or_not_at_all(saved, tmp_path):
    rule = Decision(temperature=2.0, arrays=DecisionArrays({"images": np.arange(256, dtype=np.uint8).reshape(2, 128)}))
    new = saved.with_decision(rule, tmp_path / "new")
    assert Bundle.load(tmp_path / "new").decision == rule == new.decision
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (saved.folder / "model.safetensors").read_bytes()
    assert Bundle.load(saved.folder).decision == Decision()
    with pytest.raises(BundleError, match="for 2 classes"):
        saved.with_decision(Decision(conformal=sets((0.1, 0.1, 0.1))))
    assert Bundle.load(saved.folder).decision == Decision()
    back = Bundle.load(tmp_path / "new").with_decision(Decision())
    assert not (back.folder / "decision.safetensors").exists()


def test_arrays_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "decision.safetensors"
    path.write_bytes(DecisionArrays({"features_centre": np.array([1.0, np.nan])}).to_bytes())
    with pytest.raises(BundleError, match="features_centre is not finite"):
        DecisionArrays.read(path, sha256(path))
    path.write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="cannot be used"):
        DecisionArrays.read(path, sha256(path))
