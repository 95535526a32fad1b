"""Counted quantiles are those of NumPy, to the bit."""

import numpy as np
import pytest

from reslink.imaging.quantiles import counted_quantiles

PARTS = (0.0, 0.005, 0.02, 1 / 3, 0.499, 0.5, 0.501, 0.9, 0.995, 1.0)


@pytest.mark.parametrize("top", [1, 2, 17, 256])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 200, 3001])
def test_they_are_those_of_numpy(n, top, rng):
    values = rng.integers(0, top, n).astype(np.uint8)
    np.testing.assert_array_equal(counted_quantiles(values, PARTS), np.quantile(values.astype(np.float64), PARTS))


def test_the_order_of_the_parts_is_kept():
    values = np.arange(101, dtype=np.uint8)
    assert counted_quantiles(values, (0.9, 0.1, 0.5)).tolist() == [90, 10, 50]
