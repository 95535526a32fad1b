"""Simulated motion and ghosting."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.datasets.kspace_artifacts import simulate_ghosting, simulate_motion


@pytest.mark.parametrize("radial", [True, False])
def test_no_motion_returns_the_image(radial: bool) -> None:
    y, x = np.mgrid[:128, :128] / 128 - 0.5
    signal = np.where(np.hypot(y, x * 1.2) < 0.4, 200 * np.random.default_rng(1).random((128, 128)), 0).astype(np.float32)
    still = simulate_motion(signal, 0.0, 0.0, np.random.default_rng(0), radial=radial)
    np.testing.assert_allclose(still, signal, atol=0.01)


def test_ghosts_have_a_regular_distance_and_the_stated_strength() -> None:
    signal = np.zeros((120, 40), np.float32)
    signal[60, 20] = 100
    for every in (2, 3):
        image = simulate_ghosting(signal, 0.2, every)
        rows = [(60 + i * 120 // every) % 120 for i in range(1, every)]
        assert image[rows, 20] == pytest.approx(20, rel=0.1)
