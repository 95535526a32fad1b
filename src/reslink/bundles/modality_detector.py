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


@dataclass(frozen=True, eq=False)
class ModalityDetector:
    """A logistic regression between CT and MR, and the distance from the heads of both.

    Attributes:
        mean: (d,) mean of the statistics.
        scale: (d,) their standard deviation.
        weights: (d,) coefficients of the standardized statistics; positive for MR.
        intercept: Their intercept.
        heads: Normal distributions of the statistics: of CT in a brain window, CT at other windows, and MR.
        limit: Distance up to which an image counts as a head.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    intercept: float
    heads: dict[str, Gaussian]
    limit: float

    def probability_of_mr(self, statistics: Floats) -> Floats:
        """Returns (n,) the probability that each image is MR, if it is CT or MR."""
        logits = (statistics - self.mean) / self.scale @ self.weights + self.intercept
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -50, 50))))

    def classify(self, statistics: Floats) -> list[Modality | None]:
        """Returns the modality of each image; None for an image that looks like neither.

        Args:
            statistics: (n, 33) from ``input_statistics``, of pixels with an isolated head.
        """
        distance = np.min([head.distance(statistics) for head in self.heads.values()], axis=0)
        is_mr = self.probability_of_mr(statistics) > 0.5
        return [None if far else "MR" if mr else "CT" for far, mr in zip(distance > self.limit, is_mr, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form, with six digits."""
        heads = {name: {key: _rounded(value) for key, value in vars(head).items()} for name, head in self.heads.items()}
        arrays = {name: _rounded(getattr(self, name)) for name in ("mean", "scale", "weights")}
        return {**arrays, "intercept": self.intercept, "heads": heads, "limit": self.limit}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ModalityDetector:
        """Returns the detector of a JSON form."""
        heads = {name: Gaussian(**{key: np.array(item) for key, item in head.items()}) for name, head in value["heads"].items()}
        arrays = {name: np.array(value[name]) for name in ("mean", "scale", "weights")}
        return cls(**arrays, intercept=value["intercept"], heads=heads, limit=value["limit"])


def _rounded(array: Floats) -> Any:
    return np.vectorize(lambda number: float(f"{number:.6g}"))(array).tolist()


@lru_cache(maxsize=1)
def modality_detector() -> ModalityDetector:
    """Returns the detector that ships with the package."""
    return ModalityDetector.from_dict(json.loads(FILE.read_text(encoding="utf-8"))["detector"])
