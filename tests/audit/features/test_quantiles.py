"""Quantiles of pixels."""

import numpy as np
import pytest

from reslink.audit.features.quantiles import quantiles, sorted_quantiles


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_are_those_of_numpy(rng, count, dtype):
    values = rng.normal(size=count).astype(dtype)
    shares = (0, 0.002, 0.5, 0.995, 1)
    np.testing.assert_allclose(quantiles(values, shares), np.quantile(values.astype(np.float64), shares), rtol=1e-6, atol=1e-7)


def test_the_values_are_not_changed(rng):
    values = rng.random((7, 9))
    before = values.copy()
    quantiles(values, (0.5,))
    np.testing.assert_array_equal(values, before)


def test_sorted_values_give_the_same_quantiles(rng):
    values = rng.normal(size=500).astype(np.float32)
    shares = (0.005, 0.5, 0.995)
    np.testing.assert_array_equal(sorted_quantiles(np.sort(values), shares), quantiles(values, shares))
