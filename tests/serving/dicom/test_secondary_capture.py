"""The picture of a series."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from pydicom import dcmread

from reslink.serving.dicom.secondary_capture import _square_tile, _tiles


def read(result):
    return dcmread(io.BytesIO(result.content))


def test_the_picture_has_a_banner_at_top_and_bottom(objects):
    picture = read(objects["picture"]).pixel_array
    for band in (picture[:40], picture[-39:]):
        red, green, blue = np.moveaxis(band.astype(int), -1, 0)
        assert ((red > 150) & (green < 60) & (blue < 80)).mean() > 0.7
        assert (band.min(axis=2) > 200).mean() > 0.02, "no text in the banner"


def test_the_sides_of_the_patient_are_at_the_edges_of_a_tile():
    """The image is 320 x 160 pixels with pixels half as high as wide, in the middle of the tile."""
    black = np.zeros((160, 160, 3), np.uint8)
    tile = np.asarray(_square_tile(black, (0.5, 1.0), ("R", "L", "A", "P")))
    white = tile.max(axis=2) > 200
    places = {
        "left": np.s_[150:170, :20],
        "right": np.s_[150:170, -20:],
        "top": np.s_[:25, 150:170],
        "bottom": np.s_[-25:, 150:170],
    }
    assert all(white[place].any() for place in places.values())
    assert sum(white[place].sum() for place in places.values()) == white.sum()
    assert not np.asarray(_square_tile(black, (0.5, 1.0), None)).any()


def test_the_tiles_of_a_series_have_the_sides_of_its_patient(series_result):
    series = series_result.series
    without = replace(series, slices=tuple(replace(image, edges=None) for image in series.slices))
    assert series.slices[0].edges == ("R", "L", "A", "P")
    for lettered, plain in zip(_tiles(series_result, 0), _tiles(replace(series_result, series=without), 0), strict=True):
        changed = (np.asarray(lettered) != np.asarray(plain)).any(axis=2)
        assert all(edge.any() for edge in (changed[:, :20], changed[:, -20:], changed[:25], changed[-25:]))
