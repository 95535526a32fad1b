"""Quantiles of 8-bit values, counted rather than sorted: those of ``numpy.quantile``, to the bit, at a fraction of its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def counted_quantiles(values: NDArray[np.uint8], parts: Sequence[float]) -> Floats:
    """Returns quantiles by linear interpolation.

    Args:
        values: (n,) whole numbers from 0 to 255, at least one.
        parts: Which quantiles, each 0 to 1.

    Returns:
        (len(parts),) float64.
    """
    upto = np.cumsum(np.bincount(values, minlength=256))
    last = values.size - 1
    places = last * np.asarray(parts, np.float64)
    first = np.floor(places).astype(np.intp)
    below, above = np.searchsorted(upto, np.minimum([first, first + 1], last), side="right")
    step, part = above - below, places - first
    found: Floats = np.where(part < 0.5, below + step * part, above - step * (1 - part))  # numpy's own straight line
    return found
