"""Rendered slices: air, bone and masks."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from reslink.datasets.phantom.cohort import Patient, render_patient


def test_air_and_bone_frame_the_head(healthy: list[Patient]) -> None:
    plane = healthy[0].slices[0]
    assert plane.pixels[:8, :8].mean() < -950
    assert plane.pixels.max() > 800
    assert plane.pixels.min() >= -1024


def test_mask_is_in_the_brain_on_every_slice(ill: list[Patient]) -> None:
    for patient in ill:
        for plane in patient.slices:
            assert plane.mask.sum() >= 30
            assert not (plane.mask & ~plane.brain).any()
            assert patient.lesion is not None


def test_healthy_slices_have_no_mask(healthy: list[Patient]) -> None:
    assert not any(plane.mask.any() for patient in healthy for plane in patient.slices)


def test_a_healthy_patient_is_the_same_head_without_the_lesion() -> None:
    with_it, without = (render_patient(2, 6, tumor=flag, slices=1) for flag in (True, False))
    assert with_it.levels == without.levels
    assert with_it.head.age == without.head.age
    difference = np.abs(with_it.slices[0].clean - without.slices[0].clean)
    assert difference[with_it.slices[0].mask].mean() > 3
    assert difference[~with_it.slices[0].brain].max() < 3  # within 1 mm of the inner table
    away = scipy.ndimage.distance_transform_edt(~with_it.slices[0].brain)
    assert not difference[away > 3].any()
