"""Which slices of a series are evaluated. Exports hold a copy of this module, see ``export/reference.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

MIN_AREA_SHARE: Final = 0.5
"""A slice is evaluated if its head area is at least this share of the largest head area in the series."""

MAX_SLICES: Final = 64
"""If a series has more slices than this, evenly spaced ones are evaluated."""


def select_slices(areas: Sequence[int]) -> tuple[int, ...]:
    """Selects the slices of a series to evaluate: those that show enough of the head, evenly spaced if there are many.

    Args:
        areas: Head area of each slice in pixels, ordered by slice position.

    Returns:
        Ascending positions in ``areas``; empty if no slice shows a head.
    """
    head_areas = np.asarray(areas)
    positions = np.flatnonzero((head_areas > 0) & (head_areas >= MIN_AREA_SHARE * head_areas.max(initial=0)))
    if len(positions) > MAX_SLICES:
        positions = positions[np.unique(np.linspace(0, len(positions) - 1, MAX_SLICES).round().astype(int))]
    return tuple(int(i) for i in positions)
