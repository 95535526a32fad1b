"""Artefacts that arise while the Fourier plane of an image is filled: motion and ghosts.

The idea of TorchIO's ``RandomMotion`` and ``RandomGhosting`` (Pérez-García et al. 2021, doi 10.1016/j.cmpb.2021.106236)
for one slice; TorchIO itself brings SimpleITK (about 280 MB) and works on volumes.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Plane: TypeAlias = NDArray[np.float32]

POSES: Final = 5
"""Poses of the head while one slice is taken; the middle one is that of the image."""
KEPT_CENTRE: Final = 0.02
"""Share of the lines about the centre that ghosting leaves alone; they hold the brightness of the image."""


def moved(signal: Plane, degrees: float, pixels: float, random: np.random.Generator, *, radial: bool) -> Plane:
    """Returns a slice during which the head moved.

    The Fourier plane is filled from turned and shifted copies: in bands of rows, as the phase encoding of MR does
    (Shaw et al. 2019, MIDL, PMLR 102:427), or in sectors of angles, as the projections of CT do by the Fourier slice
    theorem.

    Args:
        signal: (H, W) values, 0 in the background.
        degrees: Largest turn.
        pixels: Largest shift along each axis.
        random: Draws the poses; the same draws give the same poses, scaled by ``degrees`` and ``pixels``.
        radial: Sectors instead of bands.
    """
    turns, *shifts = random.uniform(-1, 1, (3, POSES))
    part = _sectors(signal.shape) if radial else _bands(signal.shape)
    plane = np.zeros(signal.shape, np.complex64)
    for pose in range(POSES):
        middle = pose == POSES // 2
        shift = (float(shifts[0][pose]) * pixels, float(shifts[1][pose]) * pixels)
        copy = signal if middle else _posed(signal, float(turns[pose]) * degrees, shift)
        plane = np.where(part == pose, fft.fft2(copy), plane)
    image = fft.ifft2(plane)
    return np.asarray(image.real if radial else np.abs(image), np.float32)


def ghosted(signal: Plane, strength: float, every: int) -> Plane:
    """Returns a slice with ghosts along its rows' axis, as pulsation at a regular interval makes them.

    Args:
        signal: (H, W) values, 0 in the background.
        strength: Height of a ghost as a share of the image, at most ``1 / every``.
        every: Each n-th line of the Fourier plane is weakened, which gives n - 1 ghosts.
    """
    lines = np.arange(signal.shape[0])
    offset = np.abs(fft.fftfreq(len(lines)))
    weak = (lines % every == 0) & (offset > KEPT_CENTRE / 2)
    factor = np.where(weak, 1 - min(1.0, strength * every), 1.0).astype(np.float32)
    return np.asarray(np.abs(fft.ifft2(fft.fft2(signal) * factor[:, None])), np.float32)


def _posed(signal: Plane, degrees: float, shift: tuple[float, float]) -> Plane:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(signal.shape) - 1) / 2
    offset = centre - matrix @ (centre + np.array(shift))
    return np.asarray(ndimage.affine_transform(signal, matrix, offset, order=1), np.float32)


def _bands(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(H, 1) the pose of each row of the Fourier plane, from the lowest frequency to the highest."""
    return np.asarray(np.minimum((fft.fftfreq(shape[0]) + 0.5) * POSES, POSES - 1), np.int64)[:, None]


def _sectors(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(H, W) the pose of each angle of the Fourier plane; opposite points have the same, so that the image stays real."""
    y, x = np.meshgrid(fft.fftfreq(shape[0]), fft.fftfreq(shape[1]), indexing="ij")
    return np.asarray(np.minimum(np.mod(np.arctan2(y, x), np.pi) / np.pi * POSES, POSES - 1), np.int64)
