"""Noise and beam hardening."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage

from reslink.datasets.phantom.cohort import Patient, render_slice
from reslink.datasets.phantom.render import TISSUES


def test_noise_in_the_brain_has_the_stated_deviation(healthy: list[Patient]) -> None:
    for patient in healthy[:4]:
        plane = patient.slices[0]
        other = render_slice(11, 1 + healthy.index(patient), level=plane.level)
        flat = (plane.tissue == TISSUES.index("white")) & (other.tissue == TISSUES.index("white"))
        spread = (plane.pixels - other.pixels)[flat].std() / np.sqrt(2)
        assert spread == pytest.approx(plane.noise_sd, rel=0.12)


def test_beam_hardening_darkens_the_band_between_the_petrous_ridges() -> None:
    differences = []
    for index in range(1, 9):
        plane = render_slice(11, index, level=-27)
        error = plane.pixels - plane.clean
        bone = (plane.clean > 900) & scipy.ndimage.binary_erosion(plane.brain, iterations=8)
        rows = np.nonzero(bone.any(1) & (np.arange(len(bone)) > len(bone) / 2))[0]  # the petrous ridges lie behind the middle
        soft = scipy.ndimage.binary_erosion((plane.clean > 0) & (plane.clean < 80) & plane.brain, iterations=3)
        soft[:, : len(bone) // 2 - 15] = soft[:, len(bone) // 2 + 15 :] = False
        between, behind = soft.copy(), soft.copy()
        between[: rows[0]] = between[rows[-1] :] = False
        behind[: rows[-1] + 5] = False  # the cerebellum behind the ridges
        differences.append(error[between].mean() - error[behind].mean())
    assert np.mean(differences) < -2


def test_mr_background_is_rician_not_gaussian() -> None:
    plane = render_slice(3, 1, sequence="T2")
    corner = plane.pixels[:20, :20]
    assert corner.min() >= 0
    assert corner.mean() / corner.std() == pytest.approx(1.91, rel=0.15)  # Rayleigh: sqrt(pi / (4 - pi))
