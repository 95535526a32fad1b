"""Outputs of a network for some slices, and for the series that they form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outputs:
    """Network outputs and input statistics of a batch of slices, or of series.

    Attributes:
        logits: (B, K) float32, or (B, 1).
        features: (B, D) float32, the pooled features before the dense layer.
        statistics: (B, 33) float64 from ``input_statistics``; None if the bundle has no OOD detector that needs them.
        brain: (B,) brain shares; None if the scope of the bundle does not need them.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    statistics: NDArray[np.float64] | None
    brain: NDArray[np.float64] | None = None

    def subset(self, rows: slice | NDArray[np.bool_]) -> Outputs:
        """Returns the outputs of some slices."""
        measured = (None if values is None else values[rows] for values in (self.statistics, self.brain))
        return Outputs(self.logits[rows], self.features[rows], *measured)

    def row(self, index: int) -> Outputs:
        """Returns the outputs of one slice, B = 1."""
        return self.subset(slice(index, index + 1))

    def pooled(self, attention: NDArray[Any]) -> Outputs:
        """Returns the outputs of the series that these slices form, B = 1: weighted sums; of the statistics the mean.

        The brain share of a series is that of the slice that shows the most.

        Args:
            attention: (B,) weight of each slice; the sum is 1.
        """
        logits, features = attention @ self.logits.astype(np.float64), attention @ self.features.astype(np.float64)
        statistics = None if self.statistics is None else self.statistics.mean(axis=0, keepdims=True)
        brain = None if self.brain is None else self.brain.max(keepdims=True)
        return Outputs(logits[None].astype(np.float32), features[None].astype(np.float32), statistics, brain)


def stack_outputs(parts: list[Outputs]) -> Outputs:
    """Returns the outputs of several batches as one.

    Args:
        parts: At least one; all or none have statistics, and brain shares.
    """
    statistics = [part.statistics for part in parts if part.statistics is not None]
    brain = [part.brain for part in parts if part.brain is not None]
    return Outputs(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate(statistics) if statistics else None,
        np.concatenate(brain) if brain else None,
    )
