"""The map of a series."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pydicom import dcmread

from reslink.serving.dicom.parametric_map import STEPS, quantize


def read(result):
    return dcmread(io.BytesIO(result.content))


def test_the_map_has_the_geometry_of_its_source(series_result, objects):
    map_dataset = read(objects["map"])
    assert (map_dataset.Rows, map_dataset.Columns, map_dataset.NumberOfFrames) == (128, 128, 10)
    assert map_dataset.FrameOfReferenceUID == series_result.series.headers[0].FrameOfReferenceUID
    assert map_dataset.ContentQualification == "RESEARCH"
    measures = map_dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == pytest.approx([232 / 128] * 2, abs=1e-5)


def test_stored_values_have_an_error_of_at_most_half_a_step(rng):
    maps, inside = rng.normal(size=(3, 8, 8)).astype(np.float32), rng.random((3, 8, 8)) > 0.3
    stored, slope, low = quantize(maps, inside)
    assert np.abs(stored * slope + low - maps)[inside].max() <= slope / 2 + 1e-9
    assert (stored[~inside] == 0).all()
    assert stored.max() == STEPS


def test_a_constant_map_can_be_stored():
    stored, slope, low = quantize(np.full((1, 2, 2), 0.25, np.float32), np.ones((1, 2, 2), np.bool_))
    assert (stored.max(), low) == (0, 0.25)
    assert slope > 0
