"""Scanner physics of the phantom: blur, quantum noise and beam hardening in CT, bias field and Rician noise in MR."""

from __future__ import annotations

import functools

import numpy as np
import scipy.ndimage
import scipy.sparse
from numpy.typing import NDArray

Field = NDArray[np.float32]

_COARSE = 64  # pixels of the grid on which beam hardening is projected
_ANGLES = 90


def quantum_noise(shape: tuple[int, int], spacing: float, cutoff: float, rng: np.random.Generator) -> Field:
    """Draws CT noise with the power spectrum of filtered back projection, of standard deviation 1.

    The spectrum is |f|·H(f)², with a Gaussian kernel H (Riederer, Pelc and Chesler, *Phys. Med. Biol.* 23:446, 1978): a sharp
    kernel gives fine grain, a smooth one blotches.

    Args:
        shape: Rows and columns.
        spacing: Millimeters between pixel centers.
        cutoff: Frequency at which the kernel falls to 1/e, in line pairs per mm; about 0.35 (soft) to 0.6 (sharp).
        rng: The random generator of the slice.
    """
    rows = np.fft.fftfreq(shape[0], spacing)[:, None]
    columns = np.fft.rfftfreq(shape[1], spacing)[None, :]
    squared = rows**2 + columns**2
    amplitude = np.sqrt(np.sqrt(squared)) * np.exp(-squared / cutoff**2)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
    return np.asarray(noise / noise.std(), np.float32)


@functools.lru_cache(maxsize=2)
def _projector(size: int, angles: int) -> tuple[scipy.sparse.csr_matrix, int]:
    """Returns the system matrix of a parallel-beam scanner (rays by angle and bin × pixels), and the bins per angle."""
    bins = int(np.ceil(size * 1.5))
    steps = np.arange(size) - (size - 1) / 2
    x, y = (axis.ravel() for axis in np.meshgrid(steps, steps))
    rows, weights = [], []
    for number, angle in enumerate(np.arange(angles) * np.pi / angles):
        position = x * np.cos(angle) + y * np.sin(angle) + (bins - 1) / 2
        low = np.floor(position).astype(int)
        rows += [number * bins + low, number * bins + low + 1]
        weights += [1 - (position - low), position - low]
    columns = np.tile(np.arange(size * size), 2 * angles)
    matrix = (np.concatenate(weights), (np.concatenate(rows), columns))
    return scipy.sparse.csr_matrix(matrix, shape=(angles * bins, size * size), dtype=np.float32), bins


def beam_hardening(hu: Field, spacing: float, strength: float) -> Field:
    """Returns the error that a polychromatic beam leaves after the scanner's water correction, in HU.

    To second order a water-corrected projection through bone falls short by β·(p_water·p_bone + 3·p_bone²) (form: Joseph and
    Spital, *J. Comput. Assist. Tomogr.* 2:100, 1978; the weight of the bone term is chosen so that the bar between the petrous
    ridges looks as in patients). Its filtered back projection gives the dark bands between dense bones and the cupping
    inside the skull.

    Args:
        hu: (N, N) image in HU.
        spacing: Millimeters between pixel centers.
        strength: β, about 0.02 for a real scanner.
    """
    zoom = _COARSE / hu.shape[0]
    coarse = scipy.ndimage.zoom(
        scipy.ndimage.uniform_filter(hu, max(1, round(1 / zoom))), zoom, order=1, grid_mode=True, mode="nearest"
    )
    step = spacing / zoom / 10  # cm
    bone = np.clip(coarse - 150, 0, None) / 1000
    water = np.clip(coarse + 1000, 0, 1150) / 1000
    projector, bins = _projector(_COARSE, _ANGLES)
    p_bone, p_water = (0.2 * step * (projector @ part.ravel()).reshape(_ANGLES, bins) for part in (bone, water))
    missing = -strength * (p_water * p_bone + 3 * p_bone**2)
    ramp = np.abs(np.fft.rfftfreq(2 * bins))
    filtered = np.fft.irfft(np.fft.rfft(missing, 2 * bins, axis=1) * ramp, 2 * bins, axis=1)[:, :bins]
    image = (projector.T @ filtered.astype(np.float32).ravel()).reshape(_COARSE, _COARSE)
    image = image * (np.pi / _ANGLES / step / 0.2 * 1000)
    return np.asarray(scipy.ndimage.zoom(image, 1 / zoom, order=1, grid_mode=True, mode="nearest"), np.float32)


def bias_field(shape: tuple[int, int], strength: float, rng: np.random.Generator) -> Field:
    """Draws the smooth gain of an MR coil: exp of a random quadratic, within about ±``strength`` of 1."""
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    terms = np.stack([x, y, x * y, x * x - 0.3, y * y - 0.3])
    weights = rng.normal(0, strength / 1.6, len(terms))
    return np.asarray(np.exp(np.tensordot(weights, terms, 1)), np.float32)


def rician(signal: Field, noise_sd: float, rng: np.random.Generator) -> Field:
    """Returns the magnitude of a signal with complex noise (Gudbjartsson and Patz, *Magn. Reson. Med.* 34:910, 1995)."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(noise_sd)
    return np.asarray(np.hypot(signal + real, imaginary), np.float32)
