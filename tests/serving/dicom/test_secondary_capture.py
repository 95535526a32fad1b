"""The picture of a series."""

from __future__ import annotations

import io

import numpy as np
from pydicom import dcmread


def read(result):
    return dcmread(io.BytesIO(result.content))


def test_the_picture_has_a_banner_at_top_and_bottom(objects):
    picture = read(objects["picture"]).pixel_array
    for band in (picture[:40], picture[-39:]):
        red, green, blue = np.moveaxis(band.astype(int), -1, 0)
        assert ((red > 150) & (green < 60) & (blue < 80)).mean() > 0.7
        assert (band.min(axis=2) > 200).mean() > 0.02, "no text in the banner"
