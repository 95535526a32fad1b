"""Motion and ghosting artifacts, simulated in the Fourier plane (k-space) of a slice.

The idea is that of TorchIO's ``RandomMotion`` and ``RandomGhosting`` (Pérez-García et al. 2021, doi
10.1016/j.cmpb.2021.106236), for one slice. TorchIO itself requires SimpleITK (about 280 MB) and works on volumes.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Plane: TypeAlias = NDArray[np.float32]

POSES: Final = 5
"""Number of head poses during the acquisition of one slice; the middle pose is that of the image."""
KEPT_CENTER: Final = 0.02
"""Share of central k-space lines that ghosting leaves unchanged; they hold the brightness of the image."""


def simulate_motion(signal: Plane, degrees: float, pixels: float, rng: np.random.Generator, *, radial: bool) -> Plane:
    """Simulates head motion during the acquisition of a slice.

    The Fourier plane is filled from rotated and shifted copies: in bands of rows, as the phase encoding of MR does
    (Shaw et al. 2019, MIDL, PMLR 102:427), or in sectors of angles, as the projections of CT do by the Fourier slice
    theorem.

    Args:
        signal: (H, W) float32, 0 in the background.
        degrees: Largest rotation in degrees.
        pixels: Largest shift along each axis in pixels.
        rng: Draws the poses; equal draws give equal poses, scaled by ``degrees`` and ``pixels``.
        radial: Fill sectors instead of bands.

    Returns:
        (H, W) float32.
    """
    rotations, *shifts = rng.uniform(-1, 1, (3, POSES))
    pose_of_frequency = _sectors(signal.shape) if radial else _bands(signal.shape)
    plane = np.zeros(signal.shape, np.complex64)
    for pose in range(POSES):
        is_middle = pose == POSES // 2
        shift = (float(shifts[0][pose]) * pixels, float(shifts[1][pose]) * pixels)
        copy = signal if is_middle else _transform(signal, float(rotations[pose]) * degrees, shift)
        plane = np.where(pose_of_frequency == pose, fft.fft2(copy), plane)
    image = fft.ifft2(plane)
    return np.asarray(image.real if radial else np.abs(image), np.float32)


def simulate_ghosting(signal: Plane, strength: float, every: int) -> Plane:
    """Simulates ghosts along the row axis, as regular pulsation causes them.

    Args:
        signal: (H, W) float32, 0 in the background.
        strength: Intensity of a ghost as a share of the image, at most ``1 / every``.
        every: Every n-th line of the Fourier plane is weakened, which gives n - 1 ghosts.

    Returns:
        (H, W) float32.
    """
    lines = np.arange(signal.shape[0])
    offset = np.abs(fft.fftfreq(len(lines)))
    weak = (lines % every == 0) & (offset > KEPT_CENTER / 2)
    factor = np.where(weak, 1 - min(1.0, strength * every), 1.0).astype(np.float32)
    return np.asarray(np.abs(fft.ifft2(fft.fft2(signal) * factor[:, None])), np.float32)


def _transform(signal: Plane, degrees: float, shift: tuple[float, float]) -> Plane:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = (np.array(signal.shape) - 1) / 2
    offset = center - matrix @ (center + np.array(shift))
    return np.asarray(ndimage.affine_transform(signal, matrix, offset, order=1), np.float32)


def _bands(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(H, 1) pose of each row of the Fourier plane, from the lowest frequency to the highest."""
    return np.asarray(np.minimum((fft.fftfreq(shape[0]) + 0.5) * POSES, POSES - 1), np.int64)[:, None]


def _sectors(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(H, W) pose by angle in the Fourier plane; opposite points share a pose, so that the image stays real."""
    y, x = np.meshgrid(fft.fftfreq(shape[0]), fft.fftfreq(shape[1]), indexing="ij")
    return np.asarray(np.minimum(np.mod(np.arctan2(y, x), np.pi) / np.pi * POSES, POSES - 1), np.int64)
