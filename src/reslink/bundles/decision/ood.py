"""The out-of-distribution detector: how far an image is from the images that the bundle was calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from reslink.errors import BundleError, InputError, unusable_bundle

Floats: TypeAlias = NDArray[np.float64]

COMPONENTS: Final = ("statistics", "features")
REASONS: Final = {
    "statistics": "the image differs from the calibration images",
    "features": "the network's features differ from those of the calibration images",
}
_SMALLEST_SCALE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution that measures the distance of rows.

    Attributes:
        mean: (d,) mean.
        scale: (d,) standard deviations, above 0.
        precision: (d, d) inverse covariance of the standardized rows.
    """

    mean: Floats
    scale: Floats
    precision: Floats

    @classmethod
    def fit(cls, rows: ArrayLike) -> Gaussian:
        """Fits (n, d) rows; the covariance is shrunk as in Ledoit and Wolf 2004 (J. Multivariate Anal. 88:365)."""
        from sklearn.covariance import LedoitWolf

        values = np.asarray(rows, dtype=np.float64)
        mean, scale = values.mean(axis=0), np.maximum(values.std(axis=0), _SMALLEST_SCALE)
        precision = LedoitWolf(assume_centered=True).fit((values - mean) / scale).get_precision()
        return cls(mean, scale, np.asarray(precision, dtype=np.float64))

    def distance(self, rows: ArrayLike) -> Floats:
        """Returns the (n,) Mahalanobis distances of (n, d) rows, divided by √d; the fitted rows have about 1.

        On a network's features: Lee et al. 2018 (arXiv 1807.03888, section 2.1), here with one mean for all classes.

        Raises:
            InputError: If the rows have another width or are not finite.
        """
        values = np.asarray(rows, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.mean) or not np.isfinite(values).all():
            raise InputError(
                f"Rows of shape {values.shape} cannot be compared with the calibration images",
                f"They are finite and of shape (n, {len(self.mean)})",
                "Use the network and the preprocessing of the bundle",
            )
        standardized = (values - self.mean) / self.scale
        squared = np.einsum("ij,ij->i", standardized @ self.precision, standardized)
        return np.asarray(np.sqrt(np.maximum(squared, 0) / len(self.mean)))

    def arrays(self, component: str) -> dict[str, Floats]:
        """Returns the arrays by the names under which they are stored."""
        return {f"{component}_{name}": getattr(self, name) for name in ("mean", "scale", "precision")}

    @classmethod
    def from_arrays(cls, component: str, arrays: Mapping[str, NDArray[Any]]) -> Gaussian:
        """Returns the distribution that is stored under these names.

        Raises:
            BundleError: If an array is missing or has another shape.
        """
        try:
            mean, scale, precision = (arrays[f"{component}_{name}"] for name in ("mean", "scale", "precision"))
        except KeyError as error:
            raise _invalid_detector(f"the array {error} is missing") from error
        width = len(mean) if mean.ndim == 1 else -1
        if scale.shape != (width,) or precision.shape != (width, width) or not (scale > 0).all():
            raise _invalid_detector(f"the arrays of the {component} do not fit each other")
        return cls(mean, scale, precision)


class OODDetector(BaseModel):
    """The distance limits of the detector; the distributions are stored in the arrays of the decision.

    An image has two distances: one of its input statistics (:mod:`reslink.imaging.input_statistics`), one of the network's
    pooled features. Each is divided by its limit. The larger result is the OOD score; above 1 the model abstains. A detector
    may have only one of them.

    Attributes:
        limits: Distance up to which an image counts as similar to the calibration images, by component.
        retained: Share of calibration images within the limits, each measured with a fit that leaves its group out. Images
            that the modality detector refuses are not calibration images.
        n_images: Number of calibration images.
        n_groups: Number of their groups (patients, with near duplicates joined).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    limits: dict[str, float]
    retained: float = Field(gt=0, lt=1)
    n_images: int = Field(ge=1)
    n_groups: int = Field(ge=1)

    def relative_distances(
        self, arrays: Mapping[str, NDArray[Any]], features: ArrayLike, statistics: ArrayLike
    ) -> dict[str, Floats]:
        """Returns the distance of each image divided by its limit, (n,) by component.

        Args:
            arrays: The stored distributions.
            features: (n, D) pooled features of the network.
            statistics: (n, 33) from ``input_statistics``.

        Raises:
            BundleError: If the limits or the arrays are not those of a detector.
            InputError: If features or statistics have another width or are not finite.
        """
        if not self.limits or not set(self.limits) <= set(COMPONENTS) or not all(limit > 0 for limit in self.limits.values()):
            raise _invalid_detector(f"it holds limits for {', '.join(self.limits) or 'nothing'}")
        rows = {"statistics": statistics, "features": features}
        return {
            name: Gaussian.from_arrays(name, arrays).distance(rows[name]) / self.limits[name]
            for name in COMPONENTS
            if name in self.limits
        }


def _invalid_detector(fault: str) -> BundleError:
    return unusable_bundle("The out-of-distribution detector of the bundle", fault, "Run reslink calibrate again")
