"""The pooling of a bundle whose cases are series: from the outputs of slices to those of the series, without torch.

It computes in NumPy what :mod:`reslink.networks.series_pooling` computes in torch, for every backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.errors import unusable_bundle

_NAMES: Final = ("value.weight", "value.bias", "gate.weight", "gate.bias", "score.weight")
_PREFIX: Final = "pooling."

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SeriesPooling:
    """Gated attention pooling with D features and 128 hidden values.

    Attributes:
        value_weight: (128, D).
        value_bias: (128,).
        gate_weight: (128, D).
        gate_bias: (128,).
        score_weight: (1, 128).
    """

    value_weight: Floats
    value_bias: Floats
    gate_weight: Floats
    gate_bias: Floats
    score_weight: Floats

    @classmethod
    def read(cls, path: Path) -> SeriesPooling:
        """Reads the pooling from a checked file of weights.

        Raises:
            BundleError: If a weight is missing, or the weights do not fit each other.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                arrays = [np.asarray(file.get_tensor(f"{_PREFIX}{name}"), np.float64) for name in _NAMES]
        except (OSError, SafetensorError) as error:
            raise unusable_bundle(path, f"it has no pooling over slices ({error})") from error
        value, bias, gate, gate_bias, score = arrays
        fits = value.ndim == 2 and value.shape == gate.shape and score.shape == (1, len(value))
        if not fits or bias.shape != (len(value),) or gate_bias.shape != (len(value),):
            raise unusable_bundle(path, "the weights of its pooling over slices do not fit each other")
        return cls(*arrays)

    def attention(self, features: NDArray[Any]) -> Floats:
        """Returns the weight (n,) of each slice of one series, with the sum 1.

        Args:
            features: (n, D) pooled features of its slices, at least one.
        """
        h = np.asarray(features, np.float64)
        value = np.tanh(h @ self.value_weight.T + self.value_bias)
        gate = 1 / (1 + np.exp(-np.clip(h @ self.gate_weight.T + self.gate_bias, -500, 500)))
        scores = (value * gate) @ self.score_weight[0]
        weights = np.exp(scores - scores.max())
        return np.asarray(weights / weights.sum())
