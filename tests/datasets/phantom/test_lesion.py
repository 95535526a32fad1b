"""Lesions: contrast, size and mass effect."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray

from reslink.datasets.phantom import lesion as phantom_lesion
from reslink.datasets.phantom.cohort import Patient, render_patient
from reslink.datasets.phantom.render import TISSUES, RenderedSlice
from reslink.datasets.phantom.tissue import Sequence


def _parenchyma(plane: RenderedSlice) -> NDArray[np.bool_]:
    return np.isin(plane.tissue, [TISSUES.index(name) for name in ("gray", "white", "nuclei")])


def _fluid_free(plane: RenderedSlice, patient: Patient) -> NDArray[np.bool_]:
    """Pixels that hold gray or white matter or oedema, and no CSF or bone, judged by their value alone."""
    tissue = [patient.values["gray"], patient.values["white"], patient.values["white"]]
    tissue[2] += np.clip(patient.values["edema"] - tissue[1], -2.4 * plane.noise_sd, 2.4 * plane.noise_sd)
    spare = 0.5 * plane.noise_sd
    return np.asarray((plane.clean > min(tissue) - spare) & (plane.clean < max(tissue) + spare))


@pytest.mark.parametrize("sequence", ["CT", "T1", "T2", "FLAIR"])
def test_lesion_contrast_to_noise_is_at_most_three(sequence: Sequence) -> None:
    for index in range(1, 9):
        patient = render_patient(11, index, tumor=True, sequence=sequence, slices=1)
        plane = patient.slices[0]
        assert plane.mask.any()
        away = scipy.ndimage.distance_transform_edt(~plane.mask) * plane.spacing
        near = plane.brain & (away > 2) & (away < 10) & (plane.tissue != TISSUES.index("csf"))
        fluid = _fluid_free(plane, patient)
        for around in (near & fluid, _parenchyma(plane) & (away > 10)):
            if around.sum() < 100:
                continue
            ratio = abs(plane.clean[plane.mask].mean() - plane.clean[around].mean()) / plane.noise_sd
            assert ratio <= 3, (index, patient.lesion)


def test_a_bright_lesion_is_darkened_to_the_limit() -> None:
    rows, columns = np.mgrid[:64, :64]
    distance = (np.hypot(rows - 32, columns - 32) - 10).astype(np.float32)
    inside = distance < 0
    clean = np.where(inside, 80, 30).astype(np.float32)
    limited = phantom_lesion.limit_contrast(clean, inside.astype(np.float32), distance, ~inside, 4.0)
    assert limited[inside].mean() == pytest.approx(30 + 4 * phantom_lesion.MAX_CONTRAST_TO_NOISE)
    np.testing.assert_array_equal(limited[~inside], clean[~inside])


def test_lesions_are_12_to_35_mm_wide(ill: list[Patient]) -> None:
    for patient in ill:
        plane = patient.slices[1]
        diameter = 2 * np.sqrt(plane.mask.sum() * plane.spacing**2 / np.pi)
        assert 12 <= diameter <= 40


def _midline_shift(ill: Patient, well: Patient) -> float:
    """Median shift in mm of the pattern around the midline, over the rows at the lesion, by template matching."""
    one, other, spacing = ill.slices[0].clean, well.slices[0].clean, ill.slices[0].spacing
    assert ill.lesion is not None
    middle = (one.shape[0] - 1) / 2
    shifts = []
    for y in np.arange(-15, 16, 3) + ill.lesion.center[1]:
        front = y * ill.head.scale[1]
        row = round(middle - (front * np.cos(ill.head.turn) + ill.head.shift[1]) / spacing)
        column = round(middle + (-front * np.sin(ill.head.turn) + ill.head.shift[0]) / spacing)
        template = other[row - 1 : row + 2, column - 9 : column + 10]
        errors = [
            np.square(one[row - 1 : row + 2, column - 9 + move : column + 10 + move] - template).sum() for move in range(-9, 10)
        ]
        shifts.append((int(np.argmin(errors)) - 9) * spacing)
    return float(np.median(shifts))


def test_mass_effect_moves_the_midline_away_from_the_lesion() -> None:
    moved = []
    for index in range(1, 13):
        ill, well = (render_patient(4, index, tumor=flag, slices=1) for flag in (True, False))
        assert ill.lesion is not None
        if abs(ill.lesion.center[0]) < 18 + ill.lesion.radius:  # mm: the lesion itself stays clear of the search
            moved.append(-np.sign(ill.lesion.center[0]) * _midline_shift(ill, well))
    assert len(moved) >= 4
    assert np.mean(np.array(moved) > 0) >= 0.8
    assert np.mean(moved) > 1.0


def test_displacement_stops_at_the_skull_and_points_outwards() -> None:
    lesion = phantom_lesion.draw_lesion(np.random.default_rng(3))
    x, y, z = (np.full(3, value, np.float32) for value in lesion.center)
    away = np.array([12, 25, 25], np.float32)
    points = phantom_lesion.Points(x + away, y, z)
    source = phantom_lesion.displace(points, lesion, np.array([30, 30, 0], np.float32))
    assert source.x[0] < points.x[0]
    assert source.x[1] < points.x[1]
    assert source.x[2] == points.x[2]
