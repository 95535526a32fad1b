"""Outputs of slices, and of the series that they form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.inference.outputs import Outputs, stack_outputs


def outputs(rng: np.random.Generator, n: int) -> Outputs:
    return Outputs(
        rng.normal(size=(n, 2)).astype(np.float32), rng.normal(size=(n, 3)).astype(np.float32), rng.normal(size=(n, 33))
    )


def test_a_series_has_the_weighted_sum_of_its_slices_and_the_mean_of_their_statistics(rng):
    slices, weights = outputs(rng, 3), np.array([0.5, 0.3, 0.2])
    pooled = slices.pooled(weights)
    assert pooled.logits[0] == pytest.approx(sum(w * row for w, row in zip(weights, slices.logits, strict=True)), abs=1e-6)
    assert pooled.features[0] == pytest.approx(sum(w * row for w, row in zip(weights, slices.features, strict=True)), abs=1e-6)
    assert pooled.statistics[0] == pytest.approx(slices.statistics.mean(axis=0))
    assert (pooled.logits.dtype, pooled.logits.shape, pooled.features.shape) == (np.float32, (1, 2), (1, 3))


def test_batches_are_stacked_in_order(rng):
    whole = outputs(rng, 5)
    again = stack_outputs([whole.subset(slice(0, 2)), whole.subset(slice(2, 5))])
    np.testing.assert_array_equal(again.logits, whole.logits)
    np.testing.assert_array_equal(again.statistics, whole.statistics)
    assert stack_outputs([Outputs(whole.logits, whole.features, None)]).statistics is None


def test_brain_shares_travel_with_the_slices_and_a_series_has_the_largest(rng):
    whole = replace(outputs(rng, 4), brain=np.array([0.1, 0.6, 0.0, 0.3]))
    assert whole.pooled(np.full(4, 0.25)).brain.tolist() == [0.6]
    assert whole.row(3).brain.tolist() == [0.3]
    assert stack_outputs([whole.subset(slice(0, 1)), whole.subset(slice(1, 4))]).brain.tolist() == whole.brain.tolist()
    assert outputs(rng, 2).pooled(np.array([0.5, 0.5])).brain is None
    assert stack_outputs([outputs(rng, 2)]).brain is None
