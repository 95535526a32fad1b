"""The out-of-distribution gate: how far an image lies from those that the bundle was calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from reslink.errors import BundleError, InputError

Floats: TypeAlias = NDArray[np.float64]

PARTS: Final = ("statistics", "features")
REASONS: Final = {
    "statistics": "the image looks unlike the calibration images",
    "features": "the network sees features unlike those of the calibration images",
}
_SMALLEST_SCALE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution, by which rows are judged.

    Attributes:
        centre: (d,) mean.
        scale: (d,) standard deviations, above 0.
        precision: (d, d) inverse covariance of the standardised rows.
    """

    centre: Floats
    scale: Floats
    precision: Floats

    @classmethod
    def fit(cls, rows: ArrayLike) -> Gaussian:
        """Fits (n, d) rows; the covariance is shrunk as Ledoit and Wolf 2004 (J. Multivariate Anal. 88:365) do."""
        from sklearn.covariance import LedoitWolf

        values = np.asarray(rows, dtype=np.float64)
        centre, scale = values.mean(axis=0), np.maximum(values.std(axis=0), _SMALLEST_SCALE)
        precision = LedoitWolf(assume_centered=True).fit((values - centre) / scale).get_precision()
        return cls(centre, scale, np.asarray(precision, dtype=np.float64))

    def distance(self, rows: ArrayLike) -> Floats:
        """Returns the (n,) Mahalanobis distances of (n, d) rows, divided by √d, so that rows like those fitted have about 1.

        On a network's features: Lee et al. 2018 (arXiv 1807.03888, section 2.1), here with one mean for all classes.

        Raises:
            InputError: If the rows have another width or are not finite.
        """
        values = np.asarray(rows, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.centre) or not np.isfinite(values).all():
            raise InputError(
                f"Rows of shape {values.shape} cannot be compared with the calibration images",
                f"They are finite and of shape (n, {len(self.centre)})",
                "Use the network and the preprocessing of the bundle",
            )
        unit = (values - self.centre) / self.scale
        square = np.einsum("ij,ij->i", unit @ self.precision, unit)
        return np.asarray(np.sqrt(np.maximum(square, 0) / len(self.centre)))

    def arrays(self, part: str) -> dict[str, Floats]:
        """Returns the arrays by the names under which they are stored."""
        return {f"{part}_{name}": getattr(self, name) for name in ("centre", "scale", "precision")}

    @classmethod
    def of_arrays(cls, part: str, arrays: Mapping[str, NDArray[Any]]) -> Gaussian:
        """Returns what was stored under these names.

        Raises:
            BundleError: If an array is missing or has another shape.
        """
        try:
            centre, scale, precision = (arrays[f"{part}_{name}"] for name in ("centre", "scale", "precision"))
        except KeyError as error:
            raise _unfit(f"the array {error} is missing") from error
        width = len(centre) if centre.ndim == 1 else -1
        if scale.shape != (width,) or precision.shape != (width, width) or not (scale > 0).all():
            raise _unfit(f"the arrays of the {part} do not fit each other")
        return cls(centre, scale, precision)


class OodGate(BaseModel):
    """The limits of the gate; what it compares with lies in the arrays of the decision.

    An image has two distances: of its input statistics (:mod:`reslink.imaging.input_statistics`), and of the network's
    pooled features. Each is divided by its limit; the larger one is the score, and the image is refused above 1.

    Attributes:
        limits: Distance up to which an image counts as like the calibration images, by part.
        retained: Share of calibration images that the limits were set to keep, each judged by a fit without its group.
        n_images: Images that it was fitted on.
        n_groups: Their groups (patients, near copies together).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    limits: dict[str, float]
    retained: float = Field(gt=0, lt=1)
    n_images: int = Field(ge=1)
    n_groups: int = Field(ge=1)

    def ratios(self, arrays: Mapping[str, NDArray[Any]], features: ArrayLike, statistics: ArrayLike) -> dict[str, Floats]:
        """Returns the distance of each image divided by its limit, (n,) by part.

        Args:
            arrays: What the gate compares with.
            features: (n, D) pooled features of the network.
            statistics: (n, 33) from ``input_statistics``.

        Raises:
            BundleError: If the arrays are not those of a gate.
            InputError: If features or statistics have another width or are not finite.
        """
        if set(self.limits) != set(PARTS) or not all(limit > 0 for limit in self.limits.values()):
            raise _unfit(f"it holds limits for {', '.join(self.limits) or 'nothing'}")
        rows = {"statistics": statistics, "features": features}
        return {part: Gaussian.of_arrays(part, arrays).distance(rows[part]) / self.limits[part] for part in PARTS}


def _unfit(fault: str) -> BundleError:
    return BundleError(
        f"The out-of-distribution gate of the bundle cannot be used: {fault}",
        f"It holds limits and arrays for {' and '.join(PARTS)}",
        "Run reslink calibrate again",
    )
