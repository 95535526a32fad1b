"""Phantom patients as series."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.datasets.phantom.cohort import PhantomSettings, render_patient
from reslink.datasets.phantom.series import HIGHEST, LOWEST, series_levels, series_name
from reslink.errors import UsageError


@pytest.mark.parametrize("slices", [1, 4, 12, 40])
@pytest.mark.parametrize("middle", [-20.0, 0.0, 35.0])
def test_levels_are_evenly_spaced_in_the_head_and_one_is_that_of_the_lesion(slices, middle):
    levels = series_levels(middle, slices)
    assert len(levels) == slices
    assert min(abs(level - middle) for level in levels) < 1e-9
    assert np.ptp(np.diff(levels)) < 1e-9 if slices > 2 else True
    distance = levels[1] - levels[0] if slices > 1 else 0
    assert LOWEST - distance <= levels[0] <= levels[-1] <= HIGHEST + distance


def test_a_lesion_is_in_some_slices_only():
    patient = render_patient(0, 1, tumor=True, slices=12, size=128, case="series")
    areas = [int(plane.mask.sum()) for plane in patient.slices]
    assert max(areas) >= 30
    assert min(areas) == 0


def test_pictures_and_faults_have_no_series():
    assert (series_name("P1", "nifti"), series_name("P1", "dicom")) == ("images/P1.nii.gz", "images/P1")
    with pytest.raises(UsageError, match=r"case is 'series' and its format 'png'.*format=nifti"):
        series_name("P1", "png")
    with pytest.raises(UsageError, match=r"settings do not fit each other.*faults are planted into slices"):
        PhantomSettings.parse({"case": "series", "format": "nifti", "faults": {"text": 0.5}})
