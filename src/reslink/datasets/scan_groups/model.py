"""The model of pairs: how likely two images are neighbors in one scan.

``benchmarks/fit_scan_groups.py`` fitted it on head CT and FLAIR slices of known patients; ``model.json`` holds its numbers and
the record of the fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FILE: Final = Path(__file__).with_name("model.json")
MAX_DEVIATIONS: Final = 5.0
"""Features are clipped this many standard deviations from their mean."""
BLOCK: Final = 65536
"""Pairs that are evaluated at once: millions of them would need gigabytes for the hidden layer."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairModel:
    """A network with one hidden layer.

    Attributes:
        mean: (F,) mean of each feature.
        scale: (F,) standard deviation of each feature.
        hidden: (F, h) weights of the hidden layer.
        hidden_bias: (h,).
        output: (h,) weights of the output.
        bias: Of the output.
    """

    mean: Floats
    scale: Floats
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    bias: float

    def log_odds(self, features: NDArray[np.floating]) -> Floats:
        """Returns the log odds, (k,), that the images of each pair are neighbors in one scan.

        Args:
            features: (k, F) from ``find_pairs``.
        """
        blocks = (features[start : start + BLOCK] for start in range(0, max(1, len(features)), BLOCK))
        return np.concatenate([self._log_odds(block) for block in blocks])

    def _log_odds(self, features: NDArray[np.floating]) -> Floats:
        standardized = np.clip((features - self.mean) / self.scale, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        return np.asarray(np.maximum(standardized @ self.hidden + self.hidden_bias, 0) @ self.output + self.bias)

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form, with four digits."""
        arrays = {name: value for name, value in vars(self).items() if name != "bias"}
        return {name: np.vectorize(lambda number: float(f"{number:.4g}"))(value).tolist() for name, value in arrays.items()} | {
            "bias": float(f"{self.bias:.4g}")
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PairModel:
        """Returns the model of a JSON form."""
        return cls(**{name: np.array(item) for name, item in value.items() if name != "bias"}, bias=value["bias"])


@lru_cache(maxsize=1)
def pair_model() -> PairModel:
    """Returns the model that ships with the package."""
    return PairModel.from_dict(json.loads(FILE.read_text(encoding="utf-8"))["model"])
