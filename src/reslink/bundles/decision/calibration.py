"""Parts of a decision that ``reslink calibrate`` fits: isotonic curves, conformal limits, and on what they were fitted."""

from __future__ import annotations

import math
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats: TypeAlias = NDArray[np.float64]


ONCE_USED: Final = (
    "if training chose the epoch by this validation part, threshold, temperature and coverage rest on images that were "
    "already used to choose, and may promise a little too much"
)


class IsotonicCurve(BaseModel):
    """A rising curve of straight lines from the network's probability of a class to a calibrated one.

    Zadrozny and Elkan 2002 (KDD), "Transforming classifier scores into accurate multiclass probability estimates".

    Attributes:
        before: Probabilities of the network, rising, 0 to 1.
        after: Calibrated probabilities, never falling, 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    before: tuple[float, ...] = Field(min_length=1)
    after: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        values = np.array([self.before, self.after]) if len(self.before) == len(self.after) else np.array([[math.nan]])
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1 or (np.diff(values, axis=1) < 0).any():
            raise ValueError("before and after are rising numbers from 0 to 1, as many of one as of the other")
        return self

    def __call__(self, probabilities: Floats) -> Floats:
        """Returns calibrated probabilities; beyond its ends the curve is level."""
        return np.interp(probabilities, self.before, self.after)


class Conformal(BaseModel):
    """Split-conformal prediction sets (:mod:`reslink.metrics.conformal`).

    They rest on the probabilities of the network as they are, without temperature or isotonic curve, which were fitted on
    the same images: so the coverage is not spoilt by that fit.

    Attributes:
        coverage: Share of cases whose set holds the true class, above 0 and below 1.
        per_class: Whether it holds within each class.
        limits: The score up to which each class belongs to the set; null where it always does, for want of images.
        n_images: Images that it was fitted on.
        n_groups: Their groups (patients, near copies together).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str = "lac"
    coverage: float = Field(gt=0, lt=1)
    per_class: bool = False
    limits: tuple[float | None, ...] = Field(min_length=2)
    n_images: int = Field(ge=1)
    n_groups: int = Field(ge=1)

    @property
    def quantiles(self) -> Floats:
        """(K,) limits, infinity where a class always belongs to the set."""
        return np.array([math.inf if limit is None else limit for limit in self.limits])


class FittedOn(BaseModel):
    """The data that a decision was fitted on.

    Attributes:
        digest: SHA-256 of the data set (``Manifest.digest``).
        n_images: Images.
        n_groups: Groups (patients, near copies together).
        split: The split of the data set that was used, null for all.
        counts: Images by class.
        method: ``temperature`` or ``isotonic``.
        operating_point: As it was asked for, such as ``sensitivity=0.95``.
        leakage: Whether images were used that the network may have learned from.
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
        """What to say of data by which the epoch of the weights was chosen, which a validation part is; empty for other."""
        return ONCE_USED if self.split == "validation" else ""
