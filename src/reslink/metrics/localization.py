"""Localization metrics: agreement of a heat map with a lesion mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from reslink.errors import InputError


def pointing_game(heat: ArrayLike, mask: ArrayLike, tolerance: float = 15.0) -> bool:
    """Returns whether the maximum of the heat map is on the lesion or at most ``tolerance`` pixels away.

    Zhang et al. 2016 (arXiv 1608.00507, "Top-down Neural Attention by Excitation Backprop"): a tolerance of 15 pixels.
    If several pixels share the maximum, all of them must hit: the result does not depend on pixel order, and a map that
    also points elsewhere gains nothing. A constant map is never a hit.

    Args:
        heat: (H, W) finite numbers, the higher the more important.
        mask: (H, W), nonzero on the lesion.
        tolerance: Largest distance in pixels between the centers of a maximum and the nearest lesion pixel, at least 0.

    Raises:
        InputError: If the shapes differ, the mask is empty or a value is not finite.
    """
    values, lesion = _check_arrays(heat, mask)
    if values.max() == values.min():
        return False
    distance = distance_transform_edt(~lesion)
    return bool((distance[values == values.max()] <= tolerance).all())


def energy_inside(heat: ArrayLike, mask: ArrayLike) -> float:
    """Returns the share of the heat on the lesion: the energy-based pointing game.

    Wang et al. 2020 (arXiv 1910.01279, "Score-CAM", section 4.3). Negative values count as 0.

    Args:
        heat: (H, W) finite numbers.
        mask: (H, W), nonzero on the lesion.

    Returns:
        0 to 1; 0 if no value is positive.

    Raises:
        InputError: As :func:`pointing_game`.
    """
    values, lesion = _check_arrays(heat, mask)
    energy = np.clip(values, 0, None)
    total = energy.sum()
    return float(energy[lesion].sum() / total) if total > 0 else 0.0


def iou(heat: ArrayLike, mask: ArrayLike) -> float:
    """Returns the intersection over union of the lesion and the same number of pixels with the highest heat.

    Equal areas make the metric independent of a threshold. Pixels that tie at the edge of the area count fractionally: a
    constant map scores like chance, and the result does not depend on pixel order.

    Args:
        heat: (H, W) finite numbers.
        mask: (H, W), nonzero on the lesion.

    Returns:
        0 to 1.

    Raises:
        InputError: As :func:`pointing_game`.
    """
    values, lesion = _check_arrays(heat, mask)
    area = int(lesion.sum())
    edge = np.partition(values.ravel(), values.size - area)[values.size - area]
    above, ties = values > edge, values == edge
    share = (area - above.sum()) / ties.sum()
    overlap = float((above & lesion).sum() + share * (ties & lesion).sum())
    return overlap / (2 * area - overlap)


def _check_arrays(heat: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, lesion = np.asarray(heat, dtype=np.float64), np.asarray(mask) != 0
    if values.ndim != 2 or values.shape != lesion.shape:
        problem = f"The heat map has the shape {values.shape}, the mask {lesion.shape}"
    elif not lesion.any():
        problem = "The lesion mask is empty"
    elif not np.isfinite(values).all():
        problem = "The heat map contains values that are not finite"
    else:
        return values, lesion
    raise InputError(problem, "Both must be (H, W), and the mask must mark a lesion", "Exclude cases without a lesion mask")
