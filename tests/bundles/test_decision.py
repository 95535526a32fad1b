"""Decisions against formulas written out."""

import numpy as np
import pytest
from pydantic import ValidationError

from reslink.bundles.decision import Decision
from reslink.errors import InputError, UsageError


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
