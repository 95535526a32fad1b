"""The parts of a decision that ``reslink calibrate`` fits: isotonic curves, conformal limits, and the data behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats: TypeAlias = NDArray[np.float64]


REUSED_VALIDATION_CAVEAT: Final = (
    "training may have chosen the epoch on this validation split; threshold, temperature and coverage then rest on images "
    "that were already used for a choice, and can be slightly optimistic"
)


OUT_OF_FOLD: Final = "out of fold"
"""The split of cases that the networks of a cross-validation predicted, each without having been trained on them."""

OUT_OF_FOLD_CAVEAT: Final = (
    "the decision was fitted to the answers of single networks, each on cases that it was not trained on; the ensemble is at "
    "least as accurate, so that its probabilities and prediction sets can be too cautious"
)


class IsotonicCurve(BaseModel):
    """A non-decreasing piecewise linear curve from the network's probability of a class to the calibrated one.

    Zadrozny and Elkan 2002 (KDD), "Transforming classifier scores into accurate multiclass probability estimates".

    Attributes:
        before: Probabilities of the network, sorted, 0 to 1.
        after: Calibrated probabilities, non-decreasing, 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    before: tuple[float, ...] = Field(min_length=1)
    after: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_monotonic(self) -> Self:
        values = np.array([self.before, self.after]) if len(self.before) == len(self.after) else np.array([[math.nan]])
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1 or (np.diff(values, axis=1) < 0).any():
            raise ValueError("before and after are non-decreasing numbers from 0 to 1, equally many")
        return self

    def __call__(self, probabilities: Floats) -> Floats:
        """Returns calibrated probabilities; the curve is constant beyond its ends."""
        return np.interp(probabilities, self.before, self.after)


class Conformal(BaseModel):
    """Split-conformal prediction sets (:mod:`reslink.metrics.conformal`).

    They use the uncalibrated probabilities of the network. Temperature and isotonic curves are fitted on the same images,
    and would bias the coverage.

    Attributes:
        coverage: Share of cases whose set holds the true class, above 0 and below 1.
        per_class: Whether the coverage holds within each class.
        limits: Highest score at which each class belongs to the set; null where it always does, for lack of images.
        n_images: Number of calibration images.
        n_groups: Number of their groups (patients, with near duplicates joined).
        sources: The sources within each of which the coverage holds; empty if it holds over all cases together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str = "lac"
    coverage: float = Field(gt=0, lt=1)
    per_class: bool = False
    limits: tuple[float | None, ...] = Field(min_length=2)
    n_images: int = Field(ge=1)
    n_groups: int = Field(ge=1)
    sources: tuple[str, ...] = ()

    @property
    def quantiles(self) -> Floats:
        """(K,) limits, infinity for a class that always belongs to the set."""
        return np.array([math.inf if limit is None else limit for limit in self.limits])


def covered_within(*, per_class: bool, sources: Sequence[str]) -> str:
    """Returns within what the coverage of prediction sets holds, such as ``each class``; empty if over all cases together."""
    parts = [*(["class"] if per_class else []), *(["source"] if sources else [])]
    return f"each {' and '.join(parts)}" if parts else ""


class FittedOn(BaseModel):
    """The data that a decision was fitted on.

    Attributes:
        digest: SHA-256 of the data set (``Manifest.digest``).
        n_images: Number of images.
        n_groups: Number of groups (patients, with near duplicates joined).
        split: The split of the data set that was used, null for all.
        counts: Images by class.
        method: ``temperature`` or ``isotonic``.
        operating_point: The requested operating point, such as ``sensitivity=0.95``.
        leakage: Whether some images may have been used to train the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    digest: str
    n_images: int
    n_groups: int
    split: str | None
    counts: dict[str, int]
    method: str
    operating_point: str
    leakage: bool = False

    @property
    def caveat(self) -> str:
        """The warning for a validation split, on which training may have chosen the epoch, and for out-of-fold cases."""
        return {"validation": REUSED_VALIDATION_CAVEAT, OUT_OF_FOLD: OUT_OF_FOLD_CAVEAT}.get(self.split or "", "")
