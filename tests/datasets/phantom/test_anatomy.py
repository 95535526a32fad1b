"""Anatomy by slice level."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.render import TISSUES, RenderedSlice


def _central_fluid(plane: RenderedSlice) -> int:
    depth = scipy.ndimage.distance_transform_edt(plane.brain) * plane.spacing
    side = np.abs(np.arange(plane.mask.shape[1]) - plane.mask.shape[1] / 2) > 4
    return int(((plane.tissue == TISSUES.index("csf")) & (depth > 32) & side).sum())


def test_ventricles_are_visible_only_at_their_levels() -> None:
    for index in (1, 2, 3):
        low, high = (_central_fluid(render_slice(7, index, level=level)) for level in (12, 48))
        assert low > 50
        assert high < low / 5
