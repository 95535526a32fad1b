"""The modality detector: whether a picture looks like a CT or an MR of a head, by its input statistics.

It decides where a file states no modality (PNG, JPEG). ``benchmarks/fit_modality_detector.py`` fitted it on public data sets;
``modality_detector.json`` holds its numbers and the record of the fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.ood import Gaussian
from reslink.imaging.image import Modality

Floats = NDArray[np.float64]

FILE: Final = Path(__file__).with_suffix(".json")
_ARRAYS: Final = ("mean", "scale", "support", "weights")


@dataclass(frozen=True, eq=False)
class ModalityDetector:
    """A support vector machine between CT and MR with a Gaussian kernel, and the distance from the heads of both.

    Attributes:
        mean: (d,) mean of the statistics.
        scale: (d,) their standard deviation.
        support: (m, d) support vectors: standardized statistics of some images of the fit.
        weights: (m,) their coefficients; positive for MR.
        intercept: Added to the sum.
        gamma: The kernel is exp(-gamma · squared distance).
        heads: Normal distributions of the statistics: of CT in a brain window, CT at other windows, and MR.
        limit: Distance up to which an image counts as a head.
    """

    mean: Floats
    scale: Floats
    support: Floats
    weights: Floats
    intercept: float
    gamma: float
    heads: dict[str, Gaussian]
    limit: float

    def score(self, statistics: Floats) -> Floats:
        """Returns (n,) above 0 for images that look more like MR than like CT; most images are beyond 1 or -1."""
        rows = (statistics - self.mean) / self.scale
        squared = (rows**2).sum(axis=1)[:, None] - 2 * rows @ self.support.T + (self.support**2).sum(axis=1)
        return np.asarray(np.exp(-self.gamma * np.maximum(squared, 0)) @ self.weights + self.intercept)

    def classify(self, statistics: Floats) -> list[Modality | None]:
        """Returns the modality of each image; None for an image that looks like neither.

        Args:
            statistics: (n, 33) from ``input_statistics``, of pixels with an isolated head.
        """
        distance = np.min([head.distance(statistics) for head in self.heads.values()], axis=0)
        is_mr = self.score(statistics) > 0
        return [None if far else "MR" if mr else "CT" for far, mr in zip(distance > self.limit, is_mr, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form, with four digits."""
        heads = {name: {key: _rounded(value) for key, value in vars(head).items()} for name, head in self.heads.items()}
        arrays = {name: _rounded(getattr(self, name)) for name in _ARRAYS}
        return {**arrays, "intercept": self.intercept, "gamma": self.gamma, "heads": heads, "limit": self.limit}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ModalityDetector:
        """Returns the detector of a JSON form."""
        heads = {name: Gaussian(**{key: np.array(item) for key, item in head.items()}) for name, head in value["heads"].items()}
        values: dict[str, Any] = {name: np.array(value[name]) for name in _ARRAYS}
        return cls(heads=heads, intercept=value["intercept"], gamma=value["gamma"], limit=value["limit"], **values)


def _rounded(array: Floats) -> Any:
    return np.vectorize(lambda number: float(f"{number:.4g}"))(array).tolist()


@lru_cache(maxsize=1)
def modality_detector() -> ModalityDetector:
    """Returns the detector that ships with the package."""
    return ModalityDetector.from_dict(json.loads(FILE.read_text(encoding="utf-8"))["detector"])
