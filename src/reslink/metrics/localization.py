"""How well a heat map finds a lesion whose mask is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from reslink.errors import InputError


def pointing_game(heat: ArrayLike, mask: ArrayLike, tolerance: float = 15.0) -> bool:
    """Returns whether the maximum of the heat map lies on the lesion, or at most ``tolerance`` pixels beside it.

    Zhang et al. 2016 (arXiv 1608.00507, "Top-down Neural Attention by Excitation Backprop"): a tolerance of 15 pixels.
    Where several pixels share the maximum, all of them must hit, so that no order of pixels decides and a map that also
    points elsewhere gains nothing; a constant map points nowhere and is never a hit.

    Args:
        heat: (H, W) finite numbers, the higher the more important.
        mask: (H, W), anything that is not 0 is lesion.
        tolerance: Pixels between the centres of a maximum and of the nearest lesion pixel, at least 0.

    Raises:
        InputError: If the shapes differ, the mask is empty or a value is not finite.
    """
    values, lesion = _checked(heat, mask)
    if values.max() == values.min():
        return False
    distance = distance_transform_edt(~lesion)
    return bool((distance[values == values.max()] <= tolerance).all())


def energy_inside(heat: ArrayLike, mask: ArrayLike) -> float:
    """Returns the share of the heat that lies on the lesion: the energy-based pointing game.

    Wang et al. 2020 (arXiv 1910.01279, "Score-CAM", section 4.3). Negative values count as no heat.

    Args:
        heat: (H, W) finite numbers.
        mask: (H, W), anything that is not 0 is lesion.

    Returns:
        0 to 1; 0 where the map holds no heat at all.

    Raises:
        InputError: As :func:`pointing_game`.
    """
    values, lesion = _checked(heat, mask)
    energy = np.clip(values, 0, None)
    total = energy.sum()
    return float(energy[lesion].sum() / total) if total > 0 else 0.0


def iou(heat: ArrayLike, mask: ArrayLike) -> float:
    """Returns the overlap (intersection over union) of the lesion with the hottest pixels, as many as the lesion has.

    Equal areas make the figure free of a threshold. Where pixels tie at the edge of that area, each of them counts as
    the fraction of it that is still to be filled, so that a constant map scores as well as chance and no order decides.

    Args:
        heat: (H, W) finite numbers.
        mask: (H, W), anything that is not 0 is lesion.

    Returns:
        0 to 1.

    Raises:
        InputError: As :func:`pointing_game`.
    """
    values, lesion = _checked(heat, mask)
    area = int(lesion.sum())
    edge = np.partition(values.ravel(), values.size - area)[values.size - area]
    above, ties = values > edge, values == edge
    share = (area - above.sum()) / ties.sum()
    overlap = float((above & lesion).sum() + share * (ties & lesion).sum())
    return overlap / (2 * area - overlap)


def _checked(heat: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, lesion = np.asarray(heat, dtype=np.float64), np.asarray(mask) != 0
    if values.ndim != 2 or values.shape != lesion.shape:
        fault = f"A heat map of shape {values.shape} was given with a mask of shape {lesion.shape}"
    elif not lesion.any():
        fault = "The lesion mask is empty"
    elif not np.isfinite(values).all():
        fault = "The heat map holds values that are not finite"
    else:
        return values, lesion
    raise InputError(fault, "Both are (H, W) of one shape, the mask marks a lesion", "Leave out cases without a lesion mask")
